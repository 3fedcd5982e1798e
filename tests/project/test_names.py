"""No word of the former vocabulary comes back, in code, tests, benchmarks, recipes or documentation."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "tests", "bench", "examples", "scripts", "recipes", "docs")
ENDINGS = {".py", ".yaml", ".md", ".html", ".ipynb", ".json", ".jsonl", ".po", ".toml"}

BANNED = frozenset(
    """
APART Aligning Ancestor AnswerTask Answered Asked Asking BUCKET_NUMBERS BYTE_OF BY_FREQUENCY CALLS_TO_ACT
CHUNK_NUMBERS CLASSES_PROVEN COSTS_ZH CURVE_FILE CallReader ChatForm Chooser Course DEEPEST Delivering Desk Door
EXPLOSION EngineLost ExamKind FIRST_AFTER FIRST_MARKS FIRST_SEAT FOLLOWERS FileAccount Fitted FoundText Gathering
Grammars HeadOfRows Heard InLine JUDGED_FIELDS JUDGED_FORMATS JUDGED_FORMAT_NAMES Joined Judgement Knob
LARGEST_SCHEMA LARGEST_SHARD LEARNT LEAST_NUMBERS LEFT_OUT LETTER_OF LONGEST_LINE LONGEST_PRODUCT LONGEST_TEXT
LOOKED_AT Laid Likely LlamaCppConsumer Looked MATRIX_FILES MOST_CHOICES MOST_FILES MOST_KEPT MOST_PIECES Measurable
MergeLearner Meter Mismatched ModelfileConsumer NAMED_TOKENS NEARLY_CERTAIN NumberFormat OF_ITSELF ObjectiveOf
OldEmbedRequest Outliner PAD_CANDIDATES PAD_STEP PAIR_FIELDS PAIR_FORMATS PAIR_FORMAT_NAMES PART_CHARACTERS
PART_ROWS PIECE_BYTES PackedMatrix Papers Portions PrefixRule RankEncoder ReportPlan SHARE_OF_ROOM SHOWN_UNITS
SLAB_BYTES SMALLEST_SHARE START_OF_KTO STATE_ZH Said Seat Shelf Sieve Speaker Speech StopTexts Tape TextForm Ticket
TokenizerProof TransformersConsumer TurnedMatrix Unhurried Unseen VERY_MANY VllmConsumer WITH_EXPERTS Wanted
_AligningFromReference _Asked _CausalProduct _Clock _FOR_WORK _Hearing _IDS_A_BATCH _IDS_A_STEP _LARGEST_DIVERGENCE
_LONGEST_HEAD _MOST_ANSWERS _MOST_STOPS _Measured _Outlet _PairPortions _PieceReader _Places _PutBack
_SECONDS_BETWEEN_LOOKS _Spelt _SummedLoss _TokenLogProbabilities _TokenPortions _WORDS_ZH _Where _Words _announce
_both_matrices _by_daft _complaints _copy_out _curve_words _glance _grammars_at _greet _grown _held_already _heldout
_is_enough _join_cluster _kept_records _learnt _less_start _look_after _looked _most_bytes _no_number _not_a_schema
_of_adapter _of_files _of_recipe _placed _prefix_rule _question_alone _receipt _refuse_frozen _refuse_unknown_groups
_reopening _same_as_before _say_changes _say_published _sendable _show_first _sift_part _sifted _stages_of
_start_as_mean _take_what_was_typed_ahead _takes_many _tell_forgotten _terminating_quietly _without_library_news
_words_en _words_zh _write_heldout all_told allotted another_result answer_log_probabilities answers_end answers_of
any_of any_word arrow_rows as_api_error as_template_data ask_once asking_alone at_start attach_rows bad_answers
bad_weight band_keys bands_and_rows base_of base_record body_of by_contamination bytes_an_id bytes_now
can_be_divided candidate_groups change_lost_in_rounding chat_prompt check_encoding check_importance check_start
choose_attention chosen_part chosen_weight client_left compare_probabilities composing_characters conditions_of
consumers_of copy_again copy_key copy_whole csv_rows cut_at_turns cut_short digest_of documents_attention
dropped_line drops_first embedding_noise encode_judgements encode_many encoding_of endless_line engine_chosen
evaluate_every exact_key expected_of exploded faster_dtype faster_format files_at final_share finished_parts
first_answer flex_documents_attention folded_characters forget_weights free_in frozen_head full_disk
generation_stops gets_more_bits gguf_files give_back good_answers good_weight guard_for guessed_turns
hanlin_answering hanlin_first_piece_seconds hanlin_waiting headers_of held_already heldout heldout_accuracy
heldout_loss heldout_records heldout_share how_written in_chunks in_key in_line is_data is_id_card is_luhn is_quick
is_right is_unmarked is_whole items_of job_file json_line json_message json_or_none jsonl_rows judged_alpaca
judged_messages judged_prompt_response judged_records judged_sharegpt judged_together judgements keep_best
keep_checkpoints keep_weights kept_place kernel_for key_for_elsewhere key_of kind_named knob knob_of known_files
known_piece knows_host language_of last_words layout_of learnt learnt_count learnt_share learnt_tokens least_saved
let_in licence licenses_in logits_of look_ahead machine_0_is_silent machine_of marks_generation may_be_in
may_begin_in maybe_spoke mean_of_trained measure_reference memory_forecast memory_here merge_learning name_and_path
named_adapters named_ids narrow_tensors narrow_tensors_became need_bitsandbytes needs_importance new_model newborn
nine_in_ten ninety_nine_in_hundred no_safetensors no_verdict no_weights not_read_back odds_weight of_frozen of_peer
of_schema of_step of_units on_broken one_line_end only_prepares open_engine open_model open_network optimizer_of
optimizer_rank optimizer_refresh our_layer over_length packaged_name packaged_source packaged_sources
pair_log_probabilities parquet_rows pass_tokens passed_over peak_rate per_step places_in places_of point_to_base
prefix_rule product_rate progress_of prompts_of prove_modelfile prove_read prove_text_unchanged
prove_weights_unchanged prove_written put_back quantization_of question_of quicken rank_encoding rate_at rate_ratio
reach_out read_aloud read_as_text read_curve read_importance read_set read_source read_titled read_words reason_text
receipt receipts_of record_lines refuse_undivided relative_base remember_digests render_many rendered_prompts
reopened rolling_hashes room_for_answer rope_of rotary_factors round_matrix row_fill row_length rows_of_pass salted
same_greedy_share same_likeliest same_top_token_share sample_of sampling_of saved_config schema_of serve_jobs
set_aside set_rate shared_beginning shingles show_costs side_facts sieve sift sift_files sift_piece skipped_because
slabs source_stop_share speaker_of split_choice split_rows stage_figures stage_for start_of stop_share stops_missing
stored_bytes strips_first_space summed_loss system_inside tagged_turns take_over take_weights takes_space_after
takes_space_before target_of template_of template_tokens tensors_of text_layout text_prompt text_rows text_rules
texts_in texts_of texts_read_otherwise through_tiles through_us to_grid to_head to_hidden to_inputs to_stream
token_log_probabilities token_rows tokens_of tokens_wanted told_in_stream tools_as_template_data train_a_little
train_rows type_made typed_tokens_read unbuilt undecodable_at units_of unlearned_answer unless_left untrained_rows
use_template verdicts_of vocabulary_growth wait_until_well warmup_share what_is_lost why_no_config wide_lines
windows_of with_trained without_effect without_rules word_list word_list_rules worse_chosen woven write_aside
write_hashed write_importance
""".split()  # noqa: SIM905
)
"""Identifiers, settings and metrics that were renamed to the field's words. Ordinary words that some class once had as
its name (`Copies`, `Shards`) are not listed: they may be words of a sentence."""

ALLOWED = {"src/hanlin/demo/world.py": {"heldout"}}
"""The label of a random stream, from which the questions of the quickstart are drawn."""

FILES = [
    file
    for folder in FOLDERS
    for file in sorted((ROOT / folder).rglob("*"))
    if file.suffix in ENDINGS and file != Path(__file__).resolve()
]


def old_names(file: Path) -> list[str]:
    words = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", file.read_text(encoding="utf-8")))
    return sorted((words - ALLOWED.get(file.relative_to(ROOT).as_posix(), set())) & BANNED)


def test_no_old_name_is_left() -> None:
    """docs/decisions/0022-names-and-layout.md says what to write instead."""
    assert len(FILES) > 500
    assert {str(file.relative_to(ROOT)): names for file in FILES if (names := old_names(file))} == {}


def test_no_module_has_an_old_name() -> None:
    names = {file.stem for file in (ROOT / "src").rglob("*.py")}
    assert not names & BANNED
