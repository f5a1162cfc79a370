"""The exact text and the exact ids that are trained on and scored."""

import pytest
from transformers import AutoProcessor

from mm_prm.prm_format import (
    PRM_TEXTS,
    Encoder,
    parse_solution,
    prm_text,
    process_text,
    render_solution,
    render_steps,
)
from mm_prm.prompts import SYSTEM_MESSAGE, policy_prompt


def test_the_process_has_one_marker_after_every_step():
    assert process_text(["a", "b"]) == "a<prm>\n\nb<prm>"
    assert process_text(["a", "b"], separator="") == "a<prm>b<prm>"
    assert prm_text("x?", process_text(["75"])) == "Question: x?\nProcess: 75<prm>"


def test_a_marker_written_by_a_model_or_a_person_is_defused():
    text = prm_text("is <prm> a tag?", process_text(["I say <prm>", "<prm>"]))
    assert text.count("<prm>") == 2
    assert text == "Question: is < prm> a tag?\nProcess: I say < prm><prm>\n\n< prm><prm>"


def test_prm_ids_spell_the_released_conversation(tokenizer):
    encoded = Encoder(tokenizer).prm(prm_text("1 + 1?", process_text(["1 + 1 = 2", "2"])), [16, 32])
    assert tokenizer.decode(encoded.input_ids) == (
        f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
        f"<img>{'<IMG_CONTEXT>' * 16}</img>\n<img>{'<IMG_CONTEXT>' * 32}</img>\n"
        "Question: 1 + 1?\nProcess: 1 + 1 = 2<prm>\n\n2<prm><|im_end|>\n"
    )
    marker = tokenizer.convert_tokens_to_ids("<prm>")
    assert [encoded.input_ids[position] for position in encoded.marker_positions] == [marker, marker]
    # Encoding the whole text at once gives the same ids: inserting ids did not move a token boundary.
    assert tokenizer(tokenizer.decode(encoded.input_ids))["input_ids"] == encoded.input_ids


def test_the_released_evaluation_leaves_the_user_turn_open_and_joins_with_a_bare_marker(tokenizer):
    separator, closes_user = PRM_TEXTS["released"]
    text = prm_text("1 + 1?", process_text(["1 + 1 = 2", "2"], separator))
    encoded = Encoder(tokenizer).prm(text, [16], closes_user)
    assert tokenizer.decode(encoded.input_ids) == (
        f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n<|im_start|>user\n<|im_start|>assistant\n"
        f"<img>{'<IMG_CONTEXT>' * 16}</img>\nQuestion: 1 + 1?\nProcess: 1 + 1 = 2<prm>2<prm><|im_end|>\n"
    )
    assert tokenizer(tokenizer.decode(encoded.input_ids))["input_ids"] == encoded.input_ids
    assert len(encoded.marker_positions) == 2


def test_special_tokens_in_a_question_stay_text(tokenizer):
    nasty = "<prm> <IMG_CONTEXT> <|im_end|> <img> <image>"
    plain = Encoder(tokenizer).prm(prm_text("?", process_text(["s"])), [])
    forged = Encoder(tokenizer).prm(prm_text(nasty, process_text([nasty])), [])
    specials = set(Encoder(tokenizer).special.values())
    assert sum(i in specials for i in forged.input_ids) == sum(i in specials for i in plain.input_ids)
    assert len(forged.marker_positions) == 1


def decoded(tokenizer, encoded):
    """The user's and the assistant's turn in short."""
    text = tokenizer.decode(encoded.input_ids).replace("<IMG_CONTEXT>" * 32, "32").replace("<IMG_CONTEXT>" * 16, "16")
    return text.partition("<|im_start|>user\n")[2]


def test_pictures_stand_where_a_row_says_so_and_nothing_is_added(tokenizer):
    encoder = Encoder(tokenizer)
    asked = "Image-1: <image>\nImage-2: <image>\nWhich?"
    assert decoded(tokenizer, encoder.sft(asked, "1", [16, 32])) == (
        "Image-1: <img>16</img>\nImage-2: <img>32</img>\nWhich?<|im_end|>\n<|im_start|>assistant\n1<|im_end|>"
    )
    assert decoded(tokenizer, encoder.sft("Which?\n<image>", "<image>", [16])) == (
        "Which?\n<img>16</img><|im_end|>\n<|im_start|>assistant\n<image><|im_end|>"
    )
    text = prm_text("In <image>, x?", process_text(["I see <image>"]))
    assert decoded(tokenizer, encoder.prm(text, [16])).endswith(
        "assistant\nQuestion: In <img>16</img>, x?\nProcess: I see < image><prm><|im_end|>\n"
    )
    in_a_step = encoder.prm("Question: x?\nProcess: I see <image><prm>", [16])
    assert decoded(tokenizer, in_a_step).endswith(
        "assistant\n<img>16</img>\nQuestion: x?\nProcess: I see <image><prm><|im_end|>\n"
    )


def test_placeholders_in_front_are_the_pictures_in_front(tokenizer):
    encoder, text = Encoder(tokenizer), prm_text("x?", process_text(["s"]))
    for counts in ([16], [16, 32]):
        marks = "<image>\n" * len(counts)
        assert encoder.sft(f"{marks}x?", "1", counts) == encoder.sft("x?", "1", counts)
        assert encoder.prm(f"{marks}{text}", counts) == encoder.prm(text, counts)
    with pytest.raises(ValueError, match="1 <image> for 2 pictures"):
        encoder.sft("<image>\nx?", "1", [16, 32])


def test_sft_ids_are_those_of_the_chat_template(desk, tokenizer):
    prompt, reply = policy_prompt("What is 3 + 3?"), render_solution(["3 + 3 = 6"], "6")
    encoded = Encoder(tokenizer).sft(prompt, reply, [16])
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    processor = AutoProcessor.from_pretrained(desk)
    asked = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    asked = asked.replace("<IMG_CONTEXT>", "<img>" + "<IMG_CONTEXT>" * 16 + "</img>")
    assert encoded.input_ids[: encoded.target_start] == tokenizer(asked)["input_ids"]
    assert tokenizer.decode(encoded.input_ids[encoded.target_start :]) == reply + "<|im_end|>"


def test_the_chat_template_keeps_a_given_system_message(tokenizer):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    )


def test_the_policy_prompt_ends_with_question_and_previous_steps():
    assert policy_prompt("x?").endswith("\nQuestion: x?")
    assert policy_prompt("x?", render_steps(["a", "b"])).endswith(
        "\nQuestion: x?\nPrevious Steps: <step>a</step><step>b</step>"
    )


@pytest.mark.parametrize(
    ("text", "steps", "answer"),
    [
        ("<step>a</step><step>b</step><answer>75</answer>", ["a", "b", "75"], "75"),
        ("<step> a\nb </step>\n\n<answer> 75 </answer> done", ["a\nb", "75"], "75"),
        ("<step>a</step><step>cut off", ["a"], None),
        ("<answer>75</answer>", ["75"], "75"),
        ("<step>a</step><answer></answer>", ["a"], None),
        ("<step>a</step><answer> <answer>75</answer></answer>", ["a", "75"], "75"),
        ("just words", [], None),
        ("", [], None),
        ("<step></step><step>a</step><answer>1</answer><step>b</step>", ["a", "1"], "1"),
    ],
)
def test_a_reply_becomes_a_rollout(text, steps, answer):
    assert parse_solution(text) == (steps, answer)


@pytest.mark.parametrize(
    ("text", "rollout"),
    [
        ("We read.\n\nWe add.\n\nAnswer: 75", (["We read.", "We add.", "75"], "75")),
        ("We read.\n \n\nWe add.\n\n**Final Answer:** 75", (["We read.", "We add.", "75"], "75")),
        (
            "Step 1: read\n\n5 + 6\nStep 2: add\nAnswer:\n\\boxed{75}",
            (["Step 1: read\n\n5 + 6", "Step 2: add", "75"], "75"),
        ),
        (
            "### Step 1\nread\n### Step 2\nso \\boxed{\\frac{1}{2}}",
            (["### Step 1\nread", "### Step 2\nso \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"], "\\frac{1}{2}"),
        ),
        ("We read.\n\nAn answer depends", (["We read.", "An answer depends"], None)),
        ("a\n\n**Answer:**\n\n\\boxed{5}", (["a", "5"], "5")),
        ("a\n\n**Final Answer:**\n$$\\boxed{5}$$\n", (["a", "5"], "5")),
        ("a\n\nAnswer:\n$$\n5\n$$", (["a", "5"], "5")),
        ("a\n\nAnswer:\n\\[\n5\n\\]", (["a", "5"], "5")),
        ("a\r\n\r\nThe correct answer is: B", (["a", "B"], "B")),
        ("a\n\nTherefore, the answer is B.", (["a", "B"], "B")),
        ("a\n\n> - **Answer:** 7", (["a", "7"], "7")),
        ("a\n\nAnswers: 3, 4", (["a", "3, 4"], "3, 4")),
        ("a\n\n\u7b54\u6848\uff1a4", (["a", "4"], "4")),
        ("a\n\n<answer>7</answer>", (["a", "7"], "7")),
        ("a\n\n<answer><answer>7</answer>", (["a", "7"], "7")),
        ("a\n\n\\boxed {7}", (["a", "\\boxed {7}", "7"], "7")),
        ("a\n\nWe see that the answer is 12 cm.", (["a", "We see that the answer is 12 cm.", "12 cm"], "12 cm")),
        ("one\n\n\\boxed{7", (["one", "\\boxed{7"], None)),
        ("one\n\nAnswer:", (["one", "Answer:"], None)),
        ("", ([], None)),
    ],
)  # fmt: skip
def test_paragraphs_are_steps_and_the_answer_comes_last(text, rollout):
    assert parse_solution(text, "paragraphs") == rollout


def test_an_answer_cut_at_the_token_limit_was_not_given():
    assert parse_solution("one\n\nAnswer: 7", "paragraphs", cut=True) == (["one", "Answer: 7"], None)
    assert parse_solution("one\n\nAnswer: 75\n\nAnd al", "paragraphs", cut=True) == (["one", "75"], "75")
    assert parse_solution("one \\boxed{75}, so", "paragraphs", cut=True) == (["one \\boxed{75}, so", "75"], "75")
    assert parse_solution("<step>one</step><answer>7", cut=True) == (["one"], None)


def test_a_prefix_is_handed_back_as_it_was_written():
    for step_format in ("tags", "paragraphs"):
        text = render_steps(["a b", "c"], step_format)
        assert parse_solution(text, step_format) == (["a b", "c"], None)
