"""What can go wrong, and the tests that show what happens then."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["FAULTS", "Fault"]

MATRIX = "tests/faults/test_matrix.py::"
REFUSALS = "tests/faults/test_refusals.py::"
DAMAGE = "tests/faults/test_damage.py::"
SHAPES = "tests/faults/test_shapes.py::"
TEXTS = "tests/faults/test_texts.py::"
PLACES = "tests/faults/test_places.py::"
PROCESSES = "tests/faults/test_processes.py::"
FENCE = "tests/airflow/test_fence.py::"
ENGINE = "tests/inference/test_engine.py::"
STORES = "tests/faults/test_stores.py::"
STORAGE = "tests/inference/test_storage.py::"
HISTORIES = "tests/simulation/test_histories.py::"
GOVERNOR = "tests/governor/test_governor.py::"
LIMITS = "tests/governor/test_simulation.py::"
FAILURES = "tests/transport/test_failures.py::"
ANSWERS = "tests/transport/test_answers.py::"
REFUSED = "tests/transport/test_refusal.py::"
DECIDE = "tests/test_decide.py::"
VECTORS = "tests/tasks/test_vectors.py::"
RERANK = "tests/tasks/test_rerank.py::"
SPARSE = "tests/tasks/test_sparse_embedding.py::"
CONTRACT = "tests/tasks/test_contract.py::"
OPERATORS = "tests/operators/test_inference.py::"

PASSING = MATRIX + "test_a_fault_that_passes_leaves_no_trace"
SPOILING = MATRIX + "test_a_value_that_is_none_refuses_its_row_alone"
STOPPING = REFUSALS + "test_what_somebody_must_mend_stops_the_task"
VAIN = ENGINE + "test_what_was_paid_in_vain_and_what_is_strange_is_told"
NO_HISTORY = HISTORIES + "test_no_history_loses_a_row_or_pays_for_a_durable_one"


class Fault(NamedTuple):
    """One row of the failure model."""

    number: int
    name: str
    tests: tuple[str, ...]
    """Tests that show the behaviour."""
    open: tuple[str, ...] = ()
    """Tests of what should hold and does not yet; each says why."""


FAULTS = (
    Fault(
        1,
        "429 with Retry-After",
        (
            PASSING,
            GOVERNOR + "test_retry_after_holds_the_whole_task",
            GOVERNOR + "test_an_absurd_retry_after_is_not_believed",
            FAILURES + "test_retry_after_in_seconds",
            FAILURES + "test_retry_after_as_a_date",
        ),
    ),
    Fault(
        2,
        "429 without",
        (
            PASSING,
            REFUSALS + "test_hidden_limits_are_kept_without_giving_up",
            LIMITS + "test_the_hidden_limit_is_found",
            ENGINE + "test_an_outage_that_lasts_stops_the_task",
        ),
    ),
    Fault(3, "429 of an account that does not pay", (STOPPING, REFUSED + "test_account_words_survive_concealment")),
    Fault(
        4,
        "429 that is Elasticsearch's own timeout or full queue",
        (PASSING, FAILURES + "test_what_may_have_been_billed", GOVERNOR + "test_too_many_at_once_narrows", VAIN),
    ),
    Fault(
        5,
        "408 and read timeouts",
        (
            PASSING,
            FAILURES + "test_one_deadline_over_the_whole_answer",
            "tests/transport/test_address.py::test_deadline_lies_above_the_servers",
            VAIN,
        ),
    ),
    Fault(
        6,
        "5xx, also inside a 400",
        (
            PASSING,
            FAILURES + "test_outage_of_the_model_inside_a_400",
            GOVERNOR + "test_five_failures_in_a_row_open_the_breaker",
            GOVERNOR + "test_the_retry_budget_is_twenty_and_a_tenth",
        ),
    ),
    Fault(
        7,
        "resets and cuts of the connection",
        (PASSING, FAILURES + "test_connection_reset", FAILURES + "test_nobody_listens", VAIN),
    ),
    Fault(
        8,
        "truncated answers, wrong lengths, bad compression",
        (
            PASSING,
            "tests/inference/test_cut_answers.py::test_answers_that_are_cut_at_a_length_get_through_in_smaller_requests",
            "tests/inference/test_cut_answers.py::test_answers_that_are_cut_whatever_their_length_end_the_run",
            FAILURES + "test_answer_cut_short",
            ANSWERS + "test_damaged_compression",
        ),
    ),
    Fault(9, "an answer that drips", (PASSING, FAILURES + "test_one_deadline_over_the_whole_answer")),
    Fault(
        10,
        "endless answers and bombs",
        (
            STOPPING,
            FAILURES + "test_answer_longer_than_the_question_allows",
            ANSWERS + "test_compressed_bomb_is_cut_off",
            REFUSALS + "test_an_answer_without_a_bottom_is_the_last",
            REFUSED + "test_deep_nesting_is_no_crash",
            VECTORS + "test_an_answer_without_a_bottom_has_a_fault_of_its_own",
            VECTORS + "test_json_that_is_damaged_is_refused",
        ),
    ),
    Fault(
        11,
        "a wrong count of answers",
        (
            PASSING,
            ENGINE + "test_a_wrong_count_is_never_zipped",
            VECTORS + "test_an_answer_of_another_shape_is_refused_as_a_whole",
        ),
    ),
    Fault(
        12,
        "dimensions that are wrong or change",
        (
            REFUSALS + "test_dimensions_that_change_in_the_middle_stop_the_task",
            ENGINE + "test_other_dimensions_in_the_middle_stop_the_run",
            ENGINE + "test_other_dimensions_than_in_the_journal_stop_the_next_try",
            VECTORS + "test_other_dimensions_than_expected_are_refused",
        ),
    ),
    Fault(
        13,
        "values that are no finite numbers; zeros",
        (
            SPOILING,
            REFUSALS + "test_a_model_without_anything_to_say_is_believed",
            VECTORS + "test_a_value_that_is_no_finite_number_refuses_its_row_alone",
            VAIN,
        ),
    ),
    Fault(
        14,
        "a sparse text that was cut",
        (
            SPARSE + "test_the_flag_is_null_where_the_model_does_not_tell",
            SPARSE + "test_a_text_that_we_cut_is_marked",
            SPARSE + "test_a_text_that_the_model_cut_is_refused_on_demand",
            OPERATORS + "test_sparse_embed_writes_weights_by_token",
            "tests/tasks/test_oddities.py::test_texts_that_were_cut_are_counted",
        ),
    ),
    Fault(
        15,
        "indexes of a ranking that cannot be right",
        (
            PASSING,
            RERANK + "test_an_index_that_cannot_be_right_refuses_the_answer",
            RERANK + "test_a_missing_score_refuses_the_row",
        ),
    ),
    Fault(
        16,
        "scores that are unsorted, equal or no numbers",
        (
            SPOILING,
            RERANK + "test_any_ranking_is_sorted_by_score_then_by_input",
            RERANK + "test_a_score_that_is_no_finite_number_refuses_the_row",
        ),
    ),
    Fault(
        17,
        "the page of a proxy or of a login",
        (
            PASSING,
            REFUSALS + "test_a_login_page_at_the_start_is_told_apart",
            ANSWERS + "test_page_of_a_proxy_with_200",
            FAILURES + "test_page_of_a_proxy_with_an_error",
        ),
    ),
    Fault(18, "a redirect", (STOPPING, ANSWERS + "test_redirect_is_not_followed")),
    Fault(
        19,
        "a key that is refused, at once or later",
        (
            STOPPING,
            REFUSALS + "test_a_rotated_key_needs_a_new_connection_and_nothing_else",
            REFUSALS + "test_a_key_that_is_rotated_while_the_task_runs_is_read_again",
            REFUSALS + "test_a_key_that_is_refused_is_not_tried_again",
        ),
    ),
    Fault(
        20,
        "a model or endpoint that is removed",
        (
            STOPPING,
            REFUSALS + "test_an_endpoint_removed_between_two_tries_is_named",
            REFUSALS + "test_an_endpoint_that_is_gone_for_a_moment_costs_nothing",
            REFUSALS + "test_an_endpoint_removed_while_the_task_runs_is_looked_at_once",
            REFUSALS + "test_an_endpoint_made_anew_with_another_model_is_not_asked_unasked",
        ),
    ),
    Fault(
        21,
        "one bad row in a request; requests too large",
        (
            REFUSALS + "test_one_bad_row_is_found_by_halving",
            REFUSALS + "test_a_row_that_is_too_large_fails_alone",
            ENGINE + "test_the_limit_that_the_server_names_is_kept",
        ),
    ),
    Fault(
        22,
        "content that is refused",
        (
            REFUSALS + "test_one_bad_row_is_found_by_halving",
            REFUSALS + "test_moderation_of_a_document_refuses_its_row_alone",
            ENGINE + "test_a_failed_row_is_not_paid_again_by_a_retry",
        ),
    ),
    Fault(
        23,
        "an endpoint that comes and goes",
        (
            REFUSALS + "test_a_service_that_comes_and_goes_is_outlived",
            LIMITS + "test_an_hour_of_ups_and_downs_is_outlived",
            LIMITS + "test_an_outage_is_over_soon",
            GOVERNOR + "test_five_failures_in_a_row_open_the_breaker",
        ),
    ),
    Fault(
        24,
        "names that resolve to nothing, or to a dead address",
        (
            REFUSALS + "test_nobody_home_can_be_tried_again",
            REFUSALS + "test_a_dead_address_of_a_name_is_passed_over",
            REFUSALS + "test_a_service_that_moves_while_the_task_runs_is_found",
            FAILURES + "test_name_that_does_not_exist",
            FAILURES + "test_a_name_is_looked_up_anew_for_each_connection",
            FAILURES + "test_who_moves_is_found_at_the_next_connection",
            FAILURES + "test_connections_that_are_opened_at_one_time_share_a_look",
            FAILURES + "test_a_dead_address_among_several_is_passed_over",
            "tests/hooks/test_modelstudio.py::test_a_name_is_looked_up_anew_for_each_connection",
        ),
    ),
    Fault(
        25,
        "a proxy in the environment",
        (
            "tests/hooks/test_proxy.py::test_proxy_is_not_used_unasked",
            "tests/hooks/test_fields.py::test_proxy_of_the_environment",
        ),
    ),
    Fault(
        26,
        "disks that are full, closed or read-only",
        (
            PLACES + "test_a_limit_on_files_that_is_reached_costs_nothing_twice",
            PLACES + "test_a_full_disk_costs_nothing_twice",
            PLACES + "test_a_disk_that_turns_read_only_keeps_what_was_paid",
            PLACES + "test_a_disk_that_is_full_from_the_start_costs_nothing",
            PLACES + "test_a_scratch_folder_that_is_full_costs_nothing",
            PLACES + "test_a_place_where_nothing_may_be_written_fails_before_any_call",
            PLACES + "test_a_folder_without_permission_fails_before_any_call",
            STORAGE + "TestRefusal::test_every_call_that_a_disk_refuses_is_told",
            STORAGE + "TestRefusal::test_what_may_not_be_read_is_told",
            STORES + "test_a_permission_that_is_missing_is_named",
            "tests/inference/test_scratch.py::test_no_space_is_told_with_what_to_do",
            "tests/inference/test_scratch.py::test_a_folder_that_cannot_be_made_is_told",
        ),
    ),
    Fault(
        27,
        "stores that fail, before or after they did it",
        (
            STORES + "test_a_store_that_is_busy_is_asked_again",
            STORES + "test_a_bucket_that_stumbles_over_each_object_loses_nothing",
            STORES + "test_a_store_that_stays_away_fails_the_try",
            NO_HISTORY,
        ),
    ),
    Fault(
        28,
        "stores that cannot create only once",
        (
            STORES + "test_a_store_that_cannot_create_once_is_found_out",
            STORES + "test_what_was_written_for_a_moment_counts_as_written",
            STORAGE + "test_exactly_one_of_many_creators_wins",
            "tests/inference/test_lease.py::test_two_that_claim_at_once_have_two_epochs",
            NO_HISTORY,
        ),
    ),
    Fault(29, "listings that are late", (STORES + "test_a_listing_is_never_taken_from_a_cache",)),
    Fault(
        30,
        "asked to stop",
        (
            PROCESSES + "test_asked_to_stop_a_task_keeps_the_answers_in_flight",
            PROCESSES + "test_asked_to_stop_a_task_does_not_wait_for_answers_that_take_long",
            ENGINE + "test_a_run_that_ends_by_itself_waits_for_what_it_has_paid_for",
            PROCESSES + "test_asked_twice_to_stop_a_task_still_leaves_in_order",
            PROCESSES + "test_a_timeout_within_execute_pays_again_for_no_more_than_was_in_flight",
            ENGINE + "test_a_stop_keeps_the_answers_in_flight",
            PROCESSES + "test_a_timeout_within_execute_keeps_the_answers_in_flight",
            PROCESSES + "test_asked_to_stop_before_it_began_a_task_does_not_trip",
        ),
    ),
    Fault(
        31,
        "killed",
        (PROCESSES + "test_killed_a_task_pays_again_for_no_more_than_was_in_flight", NO_HISTORY),
    ),
    Fault(
        32,
        "the same task twice; a frozen one that wakes",
        (
            PROCESSES + "test_the_same_task_twice_pays_once",
            PROCESSES + "test_a_frozen_task_finds_that_it_was_replaced",
            PROCESSES + "test_a_task_that_was_frozen_for_long_sends_nothing_more",
            PROCESSES + "test_an_orphan_leaves_to_the_next_try",
            NO_HISTORY,
        ),
    ),
    Fault(33, "clocks that are wrong", (NO_HISTORY, FAILURES + "test_retry_after_as_a_date")),
    Fault(
        34,
        "a source that changes under the task",
        (
            PLACES + "test_a_source_that_changes_under_the_task_is_noticed",
            PLACES + "test_a_file_that_comes_late_waits_for_the_next_run",
        ),
    ),
    Fault(
        35,
        "files that are damaged, encrypted or no Parquet",
        (
            DAMAGE + "test_no_flipped_bit_becomes_data",
            DAMAGE + "test_no_cut_file_becomes_data",
            DAMAGE + "test_rows_that_a_footer_hides_are_missed",
            DAMAGE + "test_what_is_no_parquet_is_named_before_any_call",
            DAMAGE + "test_one_bad_file_among_many_is_named",
            DAMAGE + "test_damaged_texts_are_found_before_any_call",
            DAMAGE + "test_damage_in_another_column_stops_and_keeps_what_was_paid",
            DAMAGE + "test_encrypted_files_are_told_apart",
        ),
    ),
    Fault(
        36,
        "nothing to read; columns that are missing or wrong",
        (
            SHAPES + "test_a_file_without_rows_gives_a_valid_dataset",
            SHAPES + "test_a_column_that_cannot_be_asked_is_named",
            ENGINE + "test_a_dataset_without_a_question_has_the_full_schema",
        ),
    ),
    Fault(37, "texts without a character", (TEXTS + "test_texts_without_a_character_are_never_sent",)),
    Fault(38, "texts that are too long", (TEXTS + "test_texts_that_are_too_long",)),
    Fault(
        39,
        "odd texts",
        (
            TEXTS + "test_odd_texts_are_sent_byte_for_byte",
            TEXTS + "test_odd_texts_are_sent_byte_for_byte_by_each_operator",
            TEXTS + "test_bytes_that_are_no_utf8_refuse_their_row_alone",
            TEXTS + "test_a_string_column_with_wrong_bytes_refuses_the_row_alone",
        ),
    ),
    Fault(
        40,
        "cells and row groups that are huge",
        (
            PROCESSES + "test_a_small_file_that_decodes_to_much_stays_small",
            PROCESSES + "test_cells_of_more_than_two_gigabytes_are_carried_in_little_memory",
            "tests/inference/test_large_cells.py::test_cells_that_turn_out_large_are_decoded_few_at_a_time",
            "tests/inference/test_large_cells.py::test_a_large_dictionary_makes_no_small_windows",
            TEXTS + "test_a_huge_cell_is_carried_along_and_not_sent",
        ),
    ),
    Fault(
        41,
        "columns of every type",
        (
            SHAPES + "test_every_type_is_carried_along",
            SHAPES + "test_columns_of_any_name_are_carried_along",
            SHAPES + "test_texts_are_read_from_every_type_that_holds_them",
            SHAPES + "test_a_dotted_path_reaches_into_structs",
            SHAPES + "test_doubled_columns_are_refused_by_name",
        ),
    ),
    Fault(42, "ids that come twice", (SHAPES + "test_doubled_rows_are_kept",)),
    Fault(
        43,
        "texts that come twice",
        (
            ENGINE + "test_equal_texts_are_asked_once",
            ENGINE + "test_equal_rows_are_asked_each_where_answers_differ",
            SHAPES + "test_doubled_rows_are_kept",
            SHAPES + "test_few_different_texts_in_many_rows_are_answered",
        ),
    ),
    Fault(
        44,
        "schemas that differ between files",
        (
            SHAPES + "test_types_that_widen_safely_are_unified",
            SHAPES + "test_types_that_lose_something_are_refused",
            SHAPES + "test_a_value_beyond_the_wider_type_is_not_quoted",
            SHAPES + "test_columns_that_some_files_lack_are_null_there",
        ),
    ),
    Fault(
        45,
        "very many small files",
        (
            SHAPES + "test_a_thousand_files_start_soon",
            "tests/inference/test_sources.py::test_a_small_file_costs_one_request",
            "tests/inference/test_sources.py::test_a_large_file_is_read_where_it_is_wanted",
        ),
    ),
    Fault(
        46,
        "partition values of every kind",
        (
            SHAPES + "test_partition_values_are_decoded_once_and_stay_text",
            SHAPES + "test_partitions_of_several_levels",
        ),
    ),
    Fault(
        47,
        "tricks with paths and links",
        (
            PLACES + "test_paths_mean_what_they_say",
            PLACES + "test_paths_that_lead_astray_are_refused",
            PLACES + "test_names_too_long_for_the_disk_fail_before_any_call",
            PLACES + "test_links_to_sources_are_followed",
            PLACES + "test_a_link_to_nowhere_is_named",
            PLACES + "test_a_single_file_that_is_a_link_is_left_alone",
            STORAGE + "test_keys_stay_below_the_root",
            STORAGE + "TestLocal::test_links_are_not_followed",
        ),
    ),
    Fault(
        48,
        "a destination that exists",
        (
            PLACES + "test_a_dataset_that_exists_is_brought_up_to_date",
            PLACES + "test_a_destination_that_is_not_ours_is_left_alone",
            OPERATORS + "test_overwrite_asks_everything_again_and_error_refuses",
            ENGINE + "test_strange_files_are_never_touched",
        ),
    ),
    Fault(
        49,
        "a retry after success",
        (
            ENGINE + "test_a_retry_after_success_gives_the_same_summary",
            ENGINE + "test_a_finished_run_asks_nothing",
            ENGINE + "test_a_destination_that_was_removed_is_published_again",
        ),
    ),
    Fault(
        50,
        "an API server that is away",
        (
            REFUSALS + "test_a_state_store_that_is_away_stops_no_work",
            REFUSALS + "test_a_state_store_that_stays_away_costs_nothing",
            ENGINE + "test_an_airflow_that_does_not_answer_is_asked_for_half_a_minute",
            ENGINE + "test_a_stop_is_heard_while_airflow_does_not_answer",
            "tests/airflow/test_scheduler.py::test_an_api_server_that_is_away_for_a_while_costs_nothing",
            FENCE + "test_what_airflow_says_of_a_try",
            FENCE + "test_a_silent_airflow_vouches_for_nobody",
            FENCE + "test_a_setting_that_makes_no_sense_keeps_nobody_from_the_commit",
        ),
    ),
    Fault(51, "a damaged journal", (ENGINE + "test_a_damaged_segment_is_asked_again_never_guessed",)),
    Fault(
        52,
        "forks, threads, signals in the middle of a write",
        (
            PROCESSES + "test_signals_in_the_middle_of_everything_change_nothing",
            PROCESSES + "test_a_task_in_a_thread_of_its_own_is_stopped_and_goes_on",
            PROCESSES + "test_asked_twice_to_stop_a_task_still_leaves_in_order",
            PROCESSES + "test_killed_a_task_pays_again_for_no_more_than_was_in_flight",
            STORAGE + "TestLocal::test_readers_never_see_half",
        ),
    ),
)
