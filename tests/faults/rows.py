"""What can go wrong, what is promised then, and the tests that say so: 48 rows."""

from typing import final

import attrs

__all__ = ["ROWS", "Row"]


@final
@attrs.frozen
class Row:
    """One bad input or fault.

    Args:
        number: 1 to 48.
        fault: what is given, or happens.
        expected: what holds then.
        tests: ids of tests, from the root of the repository.
        refused: whether it is an error, with a hint; else the run goes on as `expected` says.
    """

    number: int
    fault: str
    expected: str
    tests: tuple[str, ...]
    refused: bool = True


def _ids(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/{file}.py::test_{name}" for name in names)


def _config(*names: str) -> tuple[str, ...]:
    return _ids("faults/test_config_rows", *names)


def _pruner(*names: str) -> tuple[str, ...]:
    return _ids("faults/test_pruner_rows", *names)


def _stage(*names: str) -> tuple[str, ...]:
    return _ids("faults/test_stage_rows", *names)


def _model(*names: str) -> tuple[str, ...]:
    return _ids("faults/test_model_rows", *names)


def _store(*names: str) -> tuple[str, ...]:
    return _ids("faults/test_store_rows", *names)


_RESUMED = _store("rows_39_to_41_a_failed_round_is_not_committed_and_the_run_is_resumed")

ROWS = (
    Row(
        1,
        "unknown op_names",
        "ConfigError with the rule, the name and the names that resemble it",
        _config("row_1_unknown_op_names"),
    ),
    Row(
        2,
        "unknown op_types, such as 'Conv2D'",
        "ConfigError with the types that the model has",
        _config("row_2_unknown_op_types"),
    ),
    Row(3, "unknown or misspelt key of a rule", "ConfigError with the closest key", _config("row_3_unknown_key")),
    Row(
        4,
        "a selector that matches nothing",
        "ConfigError; allow_empty=True accepts it",
        _config("row_4_substring_matches_nothing"),
    ),
    Row(5, "sparsity 1.5", "ConfigError: expected [0, 1); 1.5 % is 0.015", _config("row_5_above_one")),
    Row(6, "sparsity -0.5", "ConfigError", _config("row_6_negative")),
    Row(7, "sparsity NaN", "ConfigError", _config("row_7_nan")),
    Row(
        8,
        "sparsity 1.0",
        "ConfigError, without a way around it: no layer is ever emptied, and `allow_full` is refused with that reason",
        _config("row_8_exactly_one"),
    ),
    Row(
        9,
        "sparsity '0.5', True, 5",
        "ConfigTypeError, a TypeError, that names the type and tells a count from a ratio",
        _config("row_9_wrong_types"),
    ),
    Row(
        10,
        "two rules with different ratios for one layer",
        "the order says it: the later rule wins, and the plan shows which rules it overrides; a rule that others "
        "override on every layer is a ConfigError that shows both, and `later_wins` is refused since it always holds",
        _config(
            "row_10_a_rule_that_later_rules_override_wholly",
            "row_10_a_rule_that_a_later_one_overrides_in_part_is_in_the_plan",
        ),
    ),
    Row(
        11,
        "exclude, then include the same layer",
        "as row 10: in this order the layer is included again, the plan shows it, and an exclusion without effect is a "
        "ConfigError",
        _config("row_11_exclude_then_include"),
    ),
    Row(
        12,
        "an empty config",
        "ConfigError: it would prune nothing",
        _config("row_12_empty_config", "row_12_everything_excluded"),
    ),
    Row(
        13,
        "a schedule of 0, negative or fractional rounds",
        "ConfigError when it is written",
        _stage("row_13_a_schedule_without_a_whole_number_of_rounds"),
    ),
    Row(
        14,
        "more sparsity at the start than at the end",
        "ScheduleError before the first round; a goal with start='origin' may ask for less",
        _stage("row_14_more_at_the_start_than_at_the_end", "row_15_a_schedule_that_falls_on_purpose"),
    ),
    Row(
        15,
        "a schedule that falls, leaves [0, 1] or gives NaN",
        "an error with the goal and the values: when the stream is described where the goals are known, else in "
        "its round",
        _stage(
            "row_15_a_schedule_that_falls_or_leaves_the_range",
            "row_15_a_schedule_that_falls_on_what_it_reads",
            "row_15_a_schedule_that_falls_on_purpose",
        ),
    ),
    Row(
        16,
        "NaN or infinity in a weight",
        "ModelError with the name, the count and the first position; excluding the layer is in order",
        _pruner("row_16_non_finite_weight"),
    ),
    Row(
        17,
        "NaN in a weight under a mask",
        "the result is exactly 0, and not -0",
        _pruner("row_17_non_finite_weight_under_a_mask"),
        refused=False,
    ),
    Row(
        18,
        "a score that is not finite",
        "ScoreError with the criterion and the weight",
        _pruner("row_18_non_finite_score"),
    ),
    Row(
        19,
        "all scores of a layer are equal",
        "in the order of names and indices, and a warning, TiedScores (FP031), that can be made an error",
        (
            *_pruner("row_19_all_scores_equal"),
            *_ids(
                "unit/allocate/test_ties",
                "every_allocation_warns_once_for_all_layers",
                "allocations_of_units_name_the_family",
                "no_warning_where_the_index_decides_nothing",
                "a_run_warns_and_goes_on",
            ),
        ),
        refused=False,
    ),
    Row(20, "an empty layer", "passed over, 'empty' in the plan", _pruner("row_20_empty_layer"), refused=False),
    Row(
        21,
        "a layer of one or two units",
        "floor(s * n) go, and one stays",
        _pruner("row_21_tiny_layers_keep_one"),
        refused=False,
    ),
    Row(
        22,
        "all filters of a layer are selected",
        "allocations keep one; a pruner that masks all is a StageError with the name",
        _pruner("row_22_no_layer_loses_all_its_filters", "row_22_a_pruner_that_selects_all_filters_is_refused"),
    ),
    Row(
        23,
        "everything is pruned globally",
        "ConfigError with what can be reached",
        _pruner("row_23_everything_pruned_globally"),
    ),
    Row(24, "a model without parameters", "ModelError", _model("row_24_no_parameters")),
    Row(
        25,
        "tied weights",
        "one leaf, one mask, the tie in the plan",
        _model("row_25_tied_weights_are_one_leaf_with_one_mask"),
        refused=False,
    ),
    Row(
        26,
        "complex, integer, quantized or sparse leaves",
        "complex and integer ones are passed over, and an error when they are named or all there is; the others are a "
        "ModelError",
        _model(
            "row_26_leaves_that_are_not_floating_point_are_passed_over_and_shown", "row_26_quantized_and_sparse_leaves"
        ),
    ),
    Row(27, "meta or fake tensors", "ModelError: materialise first", _model("row_27_meta_tensors")),
    Row(
        28,
        "frozen weights",
        "pruned; plan and report say frozen",
        _model("row_28_frozen_weights_are_pruned_and_reported"),
        refused=False,
    ),
    Row(
        29,
        "a model that is wrapped for pruning, or whose weights are computed",
        "a wrapper is a ModelError that tells what to call; a parametrization stays, and is no layer until it "
        "is removed",
        _model("row_29_a_model_that_is_wrapped_for_pruning", "row_29_a_weight_that_a_parametrization_computes"),
    ),
    Row(30, "a compiled model", "the module inside is taken", _model("row_30_a_compiled_model"), refused=False),
    Row(31, "DataParallel", "ModelError: pass model.module", _model("row_31_data_parallel")),
    Row(
        32,
        "DistributedDataParallel",
        "the module inside is taken, under its own names",
        _model("rows_32_and_33_wrappers_of_distributed_training"),
        refused=False,
    ),
    Row(
        33,
        "FSDP, both versions",
        "ModelError: prune the plain model, then shard it",
        _model("rows_32_and_33_wrappers_of_distributed_training"),
    ),
    Row(
        34,
        "control flow that depends on data",
        "masks suit every way through the model; a smaller model that would not is a StructureError with file and line",
        _model("row_34_control_flow_that_depends_on_data"),
    ),
    Row(
        35,
        "compaction of grouped convolutions and normalisations",
        "attributes of the modules follow their tensors",
        _model("row_35_attributes_of_compacted_modules"),
        refused=False,
    ),
    Row(
        36,
        "batch normalisation in training mode under grad and vmap",
        "grad gets clones of the statistics; vmap is a ModelError: use model.eval()",
        _model("row_36_batch_normalisation_in_training_mode"),
    ),
    Row(
        37,
        "dropout under vmap",
        "ModelError: randomness='different'; the library's own use says so, with the run's seed",
        _model("row_37_dropout_under_vmap"),
    ),
    Row(
        38,
        "example inputs that do not fit",
        "ModelError with the layer, its sizes and the shapes given, before anything trains",
        (
            *_model("row_38_example_inputs_of_a_wrong_shape", "row_38_masks_of_a_wrong_shape"),
            *_stage("row_38_example_inputs_of_a_wrong_shape"),
        ),
    ),
    Row(
        39,
        "an evaluator or a training function that raises",
        "StageError from it, with round and stage; the round is not kept, and the run is resumed there",
        (
            *_stage("row_39_a_function_that_raises", "row_39_a_failed_round_is_not_committed_and_can_be_resumed"),
            *_RESUMED,
        ),
    ),
    Row(
        40,
        "an evaluator that returns NaN, None, a tensor or a text",
        "StageError with the type; nan='record' keeps the round of a NaN without a score",
        (
            *_stage(
                "row_40_an_evaluation_that_is_no_number",
                "row_40_nan_is_a_round_without_a_score_where_the_user_says_so",
                "row_40_nan_recorded_is_never_the_best",
                "row_40_recording_nan_accepts_nothing_else",
                "rows_40_and_41_options_that_do_not_exist",
            ),
            *_RESUMED,
        ),
    ),
    Row(
        41,
        "training, or any stage, that leaves NaN in the model",
        "DivergenceError with the leaf, and the round is not kept; on_diverge='rollback' goes on without the training",
        (
            *_stage(
                "row_41_training_that_diverges",
                "row_41_statistics_that_diverge",
                "row_41_a_diverged_round_is_not_committed_and_the_run_goes_on_from_the_one_before",
                "row_41_a_rollback_goes_on_without_the_training",
                "row_41_only_divergence_is_rolled_back",
                "rows_40_and_41_options_that_do_not_exist",
            ),
            *_ids(
                "unit/compose/test_outcome",
                "a_users_stage_that_diverges",
                "a_pruner_that_trains_into_nan",
                "what_was_not_finite_before_may_stay_so",
                "numbers_that_are_none",
            ),
            *_RESUMED,
        ),
    ),
    Row(
        42,
        "training that changes shapes, drops parameters or regrows pruned weights",
        "StageError with the leaf",
        _stage("row_42_training_that_changes_the_model", "row_42_a_model_returned_in_place_of_the_given_one"),
    ),
    Row(
        43,
        "training that works in place",
        "it has a private copy; the caller's model keeps its bytes",
        _stage("row_43_training_that_works_in_place"),
        refused=False,
    ),
    Row(
        44,
        "a stored round that is truncated, changed, swapped, empty or missing",
        "a warning, RoundDamaged, with file and reason, and the round before; CheckpointError with all reasons when "
        "none is left",
        _store(
            "row_44_a_damaged_round_gives_way_to_the_one_before", "row_44_when_nothing_is_left_every_reason_is_told"
        ),
    ),
    Row(
        45,
        "a stored run made to do harm",
        "CheckpointError; nothing is executed, and no path is built from what a file says",
        _store("row_45_malicious_files_run_nothing", "row_45_only_files_of_their_own_are_read"),
    ),
    Row(
        46,
        "a run resumed with another pipeline, config, seed, network or environment",
        "CheckpointError with the difference; for the environment a warning, or an error with strict_env=True",
        _store(
            "row_46_another_run_is_refused_with_the_difference", "row_46_another_environment_is_a_warning_or_an_error"
        ),
    ),
    Row(
        47,
        "a full or read-only disk, an interrupt, a signal, a second writer",
        "the round before is intact, nothing half written is left, a second writer learns who the first one is",
        _store(
            "row_47_no_room_is_told_before_the_round",
            "row_47_a_commit_that_fails_leaves_the_round_before",
            "row_47_an_interrupt_loses_the_round_in_flight",
            "row_47_a_terminated_process_loses_the_round_in_flight",
            "row_47_a_second_writer_is_refused_and_names_the_first",
        ),
    ),
    Row(
        48,
        "a worker that dies, or computes something else",
        "StageError with the round; the rounds before are kept. There are no ranks that could disagree: a worker makes "
        "whole rounds, under the caller's settings, and any executor gives what none gives",
        _ids(
            "unit/test_executor",
            "a_worker_that_dies_names_the_round_and_the_run_goes_on",
            "a_function_that_cannot_be_sent_to_a_worker",
            "any_executor_gives_what_none_gives",
            "workers_compute_under_the_settings_of_the_caller",
            "the_first_failure_in_order_is_raised",
        ),
    ),
)
"""In the order of their numbers."""
