"""The one place that spells a solution for the policy (<step> tags) and a question with its steps for the PRM (<prm>).

Training and scoring both go through `process_text` and `Encoder.prm`, so they cannot drift apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from mm_prm.cli import BadInput
from mm_prm.extraction import final_answer
from mm_prm.prompts import SYSTEM_MESSAGE

MARKER = "<prm>"
PLACEHOLDER = "<image>"  # where a picture stands in a training row, as InternVL's format has it
IMAGE_START, IMAGE_CONTEXT, IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"


class PrmText(NamedTuple):
    """separator: between a marker and the next step; closes_user: does <|im_end|> end the empty user turn?"""

    separator: str
    closes_user: bool


# What the PRM was trained on, and what the released evaluation shows it instead (docs/fidelity.md).
PRM_TEXTS = {"training": PrmText("\n\n", True), "released": PrmText("", False)}
STEP_SEPARATOR = PRM_TEXTS["training"].separator

# How the policy writes its steps, and what ends one
STEP_ENDS = {"tags": "</step>", "paragraphs": "\n\n", "think": "\n\n"}
STEP_FORMATS = tuple(STEP_ENDS)
_STEP = re.compile(r"<step>(.*?)</step>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_DOUBLED = re.compile(r"<answer>\s*(?=<answer>)")
_ANSWERS = re.compile(rf"{_ANSWER.pattern}(?:(?:\s|[,;]|and|or)*{_ANSWER.pattern})*", re.DOTALL)
_THINK = re.compile(r"</?think>")  # around the paragraphs of `think`
_STEP_HEADING = re.compile(r"^(?=[#* \t]*step[ \t]+\d+[* \t]*(?:[:.)\uff1a]|$))", re.IGNORECASE | re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_SPECIAL = re.compile(r"<(?=(?:prm|image|/?img|IMG_CONTEXT|\|\w+\|)>)")


def render_steps(steps: list[str], step_format: str = "tags") -> str:
    """`<step>a</step><step>b</step>` or `a\\n\\nb\\n\\n`: how a prefix is handed back to the policy."""
    if step_format != "tags":
        return ("<think>" if step_format == "think" and steps else "") + "".join(f"{step}\n\n" for step in steps)
    return "".join(f"<step>{step}</step>" for step in steps)


def render_solution(steps: list[str], answer: str) -> str:
    """A whole solution as the policy is taught to write it."""
    return f"{render_steps(steps)}<answer>{answer}</answer>"


def parse_solution(text: str, step_format: str = "tags", cut: bool = False) -> tuple[list[str], str | None]:
    """Split the policy's text into its rollout (contents of the steps, the answer last) and the answer.

    The answer is None when the text never gives one (cut at the token limit, or not in the format);
    the rollout then holds the steps alone, possibly none. cut: the text ended at the token limit.
    """
    text = _DOUBLED.sub("", _THINK.sub("", text) if step_format == "think" else text)
    body, answer = _split_tags(text) if step_format == "tags" else _split_paragraphs(text, cut)
    steps = [step.strip() for step in body if step.strip()]
    return (steps + [answer], answer) if answer else (steps, None)


def read_step(text: str, step_format: str = "tags") -> list[str]:
    """The step of a text that was stopped at the end of one; none where it is blank."""
    body = _STEP.findall(text) if step_format == "tags" else [_THINK.sub("", text)]
    return [step.strip() for step in body if step.strip()]


def _split_tags(text: str) -> tuple[list[str], str]:
    """Different answers that follow one another are one: `<answer>3</answer> and <answer>5</answer>`."""
    found = _ANSWERS.search(text)
    answers = [answer.strip() for answer in _ANSWER.findall(found.group())] if found else []
    answers = list(dict.fromkeys(filter(None, answers)))
    return _STEP.findall(text[: found.start()] if found else text), ", ".join(answers)


def _split_paragraphs(text: str, cut: bool) -> tuple[list[str], str]:
    """Steps at blank lines, or at `Step n:` where there are such."""
    text = text.replace("\r\n", "\n")
    tagged = _ANSWERS.search(text)
    body, answer = (text[: tagged.start()], _split_tags(text)[1]) if tagged else final_answer(text, cut)
    pieces = _STEP_HEADING.split(body) if _STEP_HEADING.search(body) else _BLANK_LINE.split(body)
    return pieces, answer


def defuse(text: str) -> str:
    """`<prm>` -> `< prm>`, and so all special tokens: text sent to a server cannot forge an image or a turn."""
    return _SPECIAL.sub("< ", text)


def _no_marker(text: str) -> str:
    # A literal "<prm>" written by a person or a model must not become a label position.
    return text.replace(MARKER, "< prm>")


def process_text(steps: list[str], separator: str = STEP_SEPARATOR) -> str:
    """`step<prm>\\n\\nstep<prm>`: one marker after every entry, exactly len(steps) of them."""
    return separator.join(_no_marker(step).replace(PLACEHOLDER, "< image>") + MARKER for step in steps)


def prm_text(question: str, process: str) -> str:
    """What the PRM reads after the images: `Question: ...\\nProcess: ...`. `process` comes from `process_text`."""
    return f"Question: {_no_marker(question)}\nProcess: {process}"


def question_of(text: str) -> str:
    """What stands before the steps in `prm_text`: the same for all paths of a problem."""
    return text.split("\nProcess: ", 1)[0]


def placeable(text: str, objective: str) -> str:
    """The part of a human turn in which `<image>` is a picture: all of it, for a PRM what stands before the steps."""
    return question_of(text) if objective == "prm" else text


def check_placeholders(text: str, pictures: int) -> None:
    """Raises ValueError unless a text has an `<image>` for each of its pictures, or none: then they stand in front."""
    found = text.count(PLACEHOLDER)
    if found not in (0, pictures):
        raise ValueError(f"{found} {PLACEHOLDER} for {pictures} picture{'s' * (pictures != 1)}")


@dataclass
class Encoded:
    """One sequence. input_ids: [tokens]; marker_positions: [labels], ascending; target_start: first trained token."""

    input_ids: list[int]
    marker_positions: list[int]
    target_start: int = 0


class Encoder:
    """Token ids of PRM and SFT sequences for one tokenizer.

    Special tokens are inserted as ids and all other text is encoded with special tokens split, so text that
    contains "<prm>", "<IMG_CONTEXT>" or "<|im_end|>" stays text. Pictures stand where the text says `<image>`, else in
    front, each on a line of its own.
    """

    def __init__(self, tokenizer: Any, marker: bool = True):
        """marker: False for a policy's tokenizer, which may lack <prm>; then only `sft` works."""
        self.tokenizer = tokenizer
        tokens = (*([MARKER] if marker else []), IMAGE_START, IMAGE_CONTEXT, IMAGE_END, TURN_START, TURN_END)
        self.special = dict(zip(tokens, tokenizer.convert_tokens_to_ids(list(tokens)), strict=True))
        if missing := [t for t, i in self.special.items() if i is None or i == tokenizer.unk_token_id]:
            raise BadInput(f"the tokenizer lacks the token(s) {', '.join(missing)}")
        # Tokenizers of the InternLM2 family put a BOS first; Qwen2's put nothing.
        self.bos: list[int] = list(tokenizer("")["input_ids"])

    def prm(self, text: str, image_tokens: list[int], closes_user: bool = True) -> Encoded:
        """Ids of `prm_text` with its images: the user's turn empty, everything in the assistant's turn.

        text: from `prm_text`; image_tokens: <IMG_CONTEXT> count of each image (tiles x tokens per tile); closes_user:
        see PrmText.
        """
        question = question_of(text)
        pieces = [*self._placed(question, image_tokens), text[len(question) :]]
        body = [part for piece in pieces for part in (self._marked(piece) if isinstance(piece, str) else [piece])]
        parts = [
            *self._turn("system", SYSTEM_MESSAGE),
            *(self._turn("user") if closes_user else [self.special[TURN_START], "user\n"]),
            *self._turn("assistant", *body),
        ]
        ids = self._ids(parts)
        return Encoded(ids, [i for i, token in enumerate(ids) if token == self.special[MARKER]])

    def sft(self, prompt: str, reply: str, image_tokens: list[int]) -> Encoded:
        """Ids of one chat turn exactly as the chat template renders it, then the reply; only the reply is trained."""
        asked = self._ids(
            [
                *self._turn("system", SYSTEM_MESSAGE),
                *self._turn("user", *self._placed(prompt, image_tokens)),
                self.special[TURN_START],
                "assistant\n",
            ]
        )
        return Encoded([*asked, *self._ids([reply, self.special[TURN_END]], bos=False)], [], target_start=len(asked))

    def _turn(self, role: str, *body: str | int) -> list[str | int]:
        return [self.special[TURN_START], f"{role}\n", *body, self.special[TURN_END], "\n"]

    def _placed(self, text: str, image_tokens: list[int]) -> list[str | int]:
        """A text and its images. Raises ValueError as `check_placeholders`; without images `<image>` is text."""
        start, context, end = self.special[IMAGE_START], self.special[IMAGE_CONTEXT], self.special[IMAGE_END]
        images = [(start, *[context] * count, end) for count in image_tokens]
        if not images or PLACEHOLDER not in text:
            return [*(part for image in images for part in (*image, "\n")), text]
        check_placeholders(text, len(images))
        first, *others = text.split(PLACEHOLDER)
        return [first, *(part for image, piece in zip(images, others, strict=True) for part in (*image, piece))]

    def _marked(self, text: str) -> list[str | int]:
        first, *others = text.split(MARKER)
        return [first, *(part for piece in others for part in (self.special[MARKER], piece))]

    def _ids(self, parts: list[str | int], bos: bool = True) -> list[int]:
        """Neighbouring strings are joined before they are encoded, as a tokenizer would see them between specials."""
        ids = list(self.bos) if bos else []
        for is_text, run in groupby(parts, key=lambda part: isinstance(part, str)):
            if is_text:
                ids += self._text("".join(map(str, run)))
            else:
                ids += map(int, run)
        return ids

    def _text(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] if text else []
