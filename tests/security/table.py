"""What is promised about security, and the tests that hold it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ITEMS", "Item"]

CANARIES = "tests/security/test_canaries.py::"
ADDRESSES = "tests/security/test_addresses.py::"
STATE = "tests/security/test_state.py::"
INPUTS = "tests/security/test_inputs.py::"
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
            CANARIES + "test_nothing_is_shown_by_the_other_operators",
            CANARIES + "test_nothing_is_shown_by_making_endpoints",
            SECRETS + "test_password_in_every_shape",
            SECRETS + "test_api_key_in_every_shape",
            HOOK + "test_secrets_are_masked_by_airflow_in_every_shape",
            CANARIES + "test_nothing_is_shown_of_a_password_that_is_not_ascii",
        ),
    ),
    Item(
        2,
        "keys are long enough and fields named so that they are masked",
        (ADDRESS + "test_short_secrets_are_refused", PROVIDER + "test_secrets_are_typed_unseen"),
    ),
    Item(3, "no secret in a rendered field", (NOTHING_SHOWN, CANARIES + "test_nothing_is_shown_by_making_endpoints")),
    Item(
        4,
        "results and progress hold counts and names",
        (CANARIES + "test_a_result_holds_counts_and_names", NOTHING_SHOWN),
    ),
    Item(
        5,
        "no credentials in an address, no bodies in a client's log",
        (
            ADDRESSES + "test_no_trick_leads_anywhere",
            ADDRESS + "test_refused_url_is_not_quoted",
            HOOK + "test_nothing_secret_is_logged_or_raised",
        ),
    ),
    Item(
        6,
        "no text of a row but in the dataset",
        (
            NOTHING_SHOWN,
            CANARIES + "test_nothing_is_shown_by_the_other_operators",
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
        (SUPPLY + "test_nothing_executes_data", STATE + "test_no_byte_of_a_segment_can_change"),
    ),
    Item(
        11,
        "bombs",
        (
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
            TLS + "test_unverified_on_demand_with_a_warning",
        ),
    ),
    Item(
        13,
        "least privilege",
        (
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
            STATE + "test_a_damaged_part_is_told_in_words",
            STATE + "test_a_damaged_record_is_told_in_words",
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
            INPUTS + "test_there_are_two_hundred",
            INPUTS + "test_no_hostile_value_is_accepted",
            FIELDS + "test_unknown_extra",
        ),
    ),
    Item(18, "what the package is made of", (SUPPLY + "test_dependencies_are_few_and_have_a_range",)),
    Item(
        19,
        "the test of a connection repeats nothing",
        (HOOK + "test_connection_that_does_not", HOOK + "test_nothing_secret_is_logged_or_raised"),
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
