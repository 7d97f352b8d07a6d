"""What is promised about security, and the tests that hold it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ITEMS", "Item"]

CANARIES = "tests/security/test_canaries.py::"
ADDRESSES = "tests/security/test_addresses.py::"
STATE = "tests/security/test_state.py::"
INPUTS = "tests/security/test_inputs.py::"
STORE_CANARIES = "tests/security/test_store_canaries.py::"
PROVISIONING = "tests/security/test_provisioning_canaries.py::"
FORM = "tests/security/test_connection_form.py::"
PRIVILEGE = "tests/security/test_least_privilege.py::"
BOMBS = "tests/security/test_bombs.py::"
SUPPLY = "tests/security/test_supply.py::"
SECRETS = "tests/transport/test_secrets.py::"
ADDRESS = "tests/transport/test_address.py::"
ANSWERS = "tests/transport/test_answers.py::"
TLS = "tests/transport/test_tls.py::"
HOOK = "tests/hooks/test_modelstudio.py::"
FIELDS = "tests/hooks/test_fields.py::"
PROVIDER = "tests/test_provider_info.py::"
DAMAGE = "tests/faults/test_damage.py::"
PLACES = "tests/faults/test_places.py::"
OPERATORS = "tests/operators/test_inference.py::"

NOTHING_SHOWN = CANARIES + "test_nothing_is_shown_whatever_fails"
NOTHING_SHOWN_BY_CALLS = PROVISIONING + "test_nothing_is_shown_whatever_call_fails"
NOTHING_SHOWN_BY_STORES = (
    STORE_CANARIES + "test_nothing_is_shown_where_a_store_refuses",
    STORE_CANARIES + "test_nothing_is_shown_where_a_store_is_down",
    STORE_CANARIES + "test_nothing_is_shown_where_the_store_of_a_source_fails",
    STORE_CANARIES + "test_nothing_is_shown_where_a_disk_refuses",
)


class Item(NamedTuple):
    """One item of the list."""

    number: int
    name: str
    tests: tuple[str, ...]
    """Tests that hold it."""
    open: tuple[str, ...] = ()
    """Tests of what should hold and does not yet; each says why."""


ITEMS = (
    Item(
        1,
        "no key in a log",
        (
            NOTHING_SHOWN,
            CANARIES + "test_every_operator_fails_in_twenty_ways",
            PROVISIONING + "test_every_operator_fails_in_twenty_ways",
            NOTHING_SHOWN_BY_CALLS,
            *NOTHING_SHOWN_BY_STORES,
            SECRETS + "test_password_in_every_shape",
            SECRETS + "test_api_key_in_every_shape",
            HOOK + "test_secrets_are_masked_by_airflow_in_every_shape",
            PROVISIONING + "test_nothing_is_shown_of_a_password_that_is_not_ascii",
        ),
    ),
    Item(
        2,
        "keys are long enough and fields named so that they are masked",
        (
            ADDRESS + "test_short_secrets_are_refused",
            PROVIDER + "test_secrets_are_typed_unseen",
            FORM + "test_the_answer_of_the_api_hides_both_secrets",
            # Airflow's command line shows secrets by design; what it shows is pinned here and told in docs/security.md.
            FORM + "test_hiding_on_the_command_line_leaves_the_address",
            FORM + "test_the_command_line_shows_all_to_whoever_may_use_it",
        ),
    ),
    Item(3, "no secret in a rendered field", (NOTHING_SHOWN, NOTHING_SHOWN_BY_CALLS)),
    Item(
        4,
        "results and progress hold counts and names",
        (NOTHING_SHOWN, CANARIES + "test_a_free_text_is_found", NOTHING_SHOWN_BY_CALLS),
    ),
    Item(
        5,
        "no credentials in an address, no bodies in a client's log",
        (
            ADDRESSES + "test_no_trick_leads_anywhere",
            ADDRESS + "test_refused_url_is_not_quoted",
            HOOK + "test_nothing_secret_is_logged_or_raised",
            STORE_CANARIES + "test_clients_of_stores_do_not_log_what_a_store_says",
        ),
    ),
    Item(
        6,
        "no text of a row but in the dataset",
        (
            NOTHING_SHOWN,
            *NOTHING_SHOWN_BY_STORES,
            CANARIES + "test_no_half_of_a_row_is_quoted",
            CANARIES + "test_a_short_row_is_not_quoted",
            CANARIES + "test_a_value_that_cannot_be_carried_is_not_quoted",
            SECRETS + "test_text_of_a_row",
            "tests/test_decide.py::test_scrub_never_leaks",
        ),
    ),
    Item(
        7,
        "no request to where a trick leads",
        (
            ADDRESSES + "test_there_are_sixty",
            ADDRESSES + "test_no_trick_leads_anywhere",
            ADDRESS + "test_addresses_that_only_a_trick_would_name",
            ADDRESS + "test_name_that_resolves_to_a_forbidden_address",
            HOOK + "test_name_that_resolves_to_a_forbidden_address",
            HOOK + "test_the_connected_socket_is_asked_where_it_leads",
            HOOK + "test_connections_of_the_client_are_guarded",
            ANSWERS + "test_redirect_is_not_followed",
            "tests/tasks/test_multi_modal_embedding.py::test_addresses_are_handed_on_as_they_are",
        ),
    ),
    Item(
        8,
        "no id or path leaves its place",
        (
            ADDRESSES + "test_there_are_forty",
            ADDRESSES + "test_no_id_leaves_its_place",
            HOOK + "test_hostile_ids",
            PLACES + "test_paths_that_lead_astray_are_refused",
            "tests/inference/test_storage.py::test_keys_stay_below_the_root",
            "tests/inference/test_images.py::test_there_are_forty_hostile_paths",
            "tests/inference/test_images.py::test_nothing_outside_of_the_folder_is_read",
            "tests/inference/test_images.py::test_links_are_followed_inside_only",
        ),
    ),
    Item(
        9,
        "no row is a template",
        (
            INPUTS + "test_no_row_is_a_template",
            "tests/faults/test_texts.py::test_odd_texts_are_sent_byte_for_byte",
            "tests/tasks/test_completion.py::test_values_that_look_like_templates_are_sent_as_they_are",
        ),
    ),
    Item(
        10,
        "nothing executes data",
        (
            SUPPLY + "test_nothing_executes_data",
            STATE + "test_no_byte_of_a_segment_can_change",
            STATE + "test_ten_thousand_damages_of_records",
        ),
    ),
    Item(
        11,
        "bombs",
        (
            BOMBS + "test_a_bomb_is_told_in_memory_that_is_bounded",
            BOMBS + "test_a_bomb_that_is_read_to_its_end_stays_within_memory",
            "tests/faults/test_processes.py::test_a_small_file_that_decodes_to_much_stays_small",
            "tests/faults/test_texts.py::test_a_huge_cell_is_carried_along_and_not_sent",
            ANSWERS + "test_compressed_bomb_is_cut_off",
            "tests/tasks/test_multi_modal_embedding.py::test_images_that_are_too_large_are_refused",
        ),
    ),
    Item(
        12,
        "TLS",
        (
            TLS + "test_certificate_that_proves_nothing",
            TLS + "test_old_tls_is_refused",
            TLS + "test_the_oldest_tls_is_ours_and_not_the_systems",
            TLS + "test_unverified_on_demand_with_a_warning",
        ),
    ),
    Item(
        13,
        "least privilege",
        (
            PRIVILEGE + "test_four_rights_on_two_prefixes_are_enough",
            PRIVILEGE + "test_a_right_that_is_missing_is_named",
            PRIVILEGE + "test_monitor_inference_is_enough_to_ask",
            PRIVILEGE + "test_monitor_inference_is_enough_for_the_rest",
            PRIVILEGE + "test_without_monitor_inference_it_is_named",
            PRIVILEGE + "test_without_manage_inference_it_is_named",
            "tests/faults/test_stores.py::test_a_permission_that_is_missing_is_named",
            HOOK + "test_connection_of_a_user_who_may_only_use_models",
            HOOK + "test_connection_without_the_privilege",
            ANSWERS + "test_user_who_may_not_see_the_cluster",
        ),
    ),
    Item(
        14,
        "files of state",
        (
            STATE + "test_state_is_for_its_owner_and_group",
            STATE + "test_there_are_ten",
            STATE + "test_no_break_in_succeeds",
            STATE + "test_a_state_folder_that_others_may_fill_is_refused",
            STATE + "test_a_state_folder_may_lie_where_all_may_write",
            STATE + "test_a_parent_that_all_may_write_to_is_warned_of",
            STATE + "test_links_in_the_state_folder_lead_nowhere",
            "tests/inference/test_storage.py::TestLocal::test_links_are_not_followed",
        ),
    ),
    Item(
        15,
        "changed bytes in files of state",
        (
            STATE + "test_no_byte_of_a_segment_can_change",
            STATE + "test_no_changed_byte_of_state_becomes_a_wrong_row",
            STATE + "test_no_byte_of_the_commit_becomes_a_wrong_row_or_a_crash",
            STATE + "test_ten_thousand_damages_of_records",
            STATE + "test_a_damaged_part_is_told_in_words",
            STATE + "test_a_damaged_record_is_told_in_words",
            STATE + "test_an_earlier_run_needs_only_one_of_its_records",
        ),
    ),
    Item(
        16,
        "checksums of input and output",
        (DAMAGE + "test_no_flipped_bit_becomes_data", DAMAGE + "test_the_output_has_checksums"),
    ),
    Item(
        17,
        "parameters",
        (
            INPUTS + "test_every_parameter_has_hostile_values",
            INPUTS + "test_there_are_two_hundred",
            INPUTS + "test_no_hostile_value_is_accepted",
            INPUTS + "test_no_hostile_value_touches_an_endpoint",
            FIELDS + "test_unknown_extra",
        ),
    ),
    Item(
        18,
        "what the package is made of",
        (
            SUPPLY + "test_dependencies_are_few_and_have_a_range",
            SUPPLY + "test_what_is_known_to_be_vulnerable_fails",
            SUPPLY + "test_an_audit_without_an_answer_is_not_passed",
            SUPPLY + "test_ci_asks_about_what_comes_with_the_package",
        ),
    ),
    Item(
        19,
        "the test of a connection repeats nothing",
        (
            PROVISIONING + "test_nothing_is_shown_by_the_test_of_a_connection",
            HOOK + "test_connection_that_does_not",
            HOOK + "test_nothing_secret_is_logged_or_raised",
        ),
    ),
    Item(
        20,
        "money",
        (
            OPERATORS + "test_a_guard_refuses_before_anything_is_spent",
            OPERATORS + "test_a_cost_guard_without_a_price_is_refused",
            OPERATORS + "test_a_dry_run_tells_the_bill_before_it_is_spent",
        ),
    ),
)
