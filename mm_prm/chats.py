"""Problems written as chats (MM-Eureka-Dataset): the user's turn -> question and pictures.

First version, a row: id, conversations [{role, content}], answer, image_urls ["file:///..."]. Second: id, message (the
chat as a JSON string, its content text or a list of text and image parts), answer. A system turn is left out: it says
how to answer, which is the policy's own prompt here.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

PLACEHOLDER = "blank.png"  # the white picture that text-only rows of the first version have


def is_chat(row: dict[str, Any]) -> bool:
    return "conversations" in row or "message" in row


def turns_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Raises ValueError that names the field."""
    name = "conversations" if "conversations" in row else "message"
    turns = row[name]
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except ValueError:
            raise ValueError(f"field {name!r}: is not JSON") from None
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"field {name!r}: is not a list of turns")
    users = [turn for turn in turns if turn.get("role") == "user"]
    if len(users) != 1:
        raise ValueError(f"field {name!r}: has {len(users)} turns of the user, not one")
    return users


def candidates(url: str) -> tuple[str, ...]:
    """Paths under which a published `file://` picture may lie: as it was published, and its ends, longest first, under
    the folder of relative paths."""
    path = unquote(url.removeprefix("file://"))
    parts = PurePosixPath(path.lstrip("/")).parts
    return (path, *("/".join(parts[start:]) for start in range(len(parts))))


def question_and_pictures(row: dict[str, Any]) -> tuple[str, list[tuple[str, ...]]]:
    """The user's text, with `<image>` where the chat has a picture, and each picture's possible paths."""
    (turn,) = turns_of(row)
    content, urls = turn.get("content"), row.get("image_urls") or []
    if not isinstance(content, (str, list, type(None))) or not isinstance(urls, (str, list)):
        raise ValueError("the user's turn: content and image_urls must be texts or lists")
    texts, shown = [], []
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
        url = part.get("image") or part.get("image_url") or "" if isinstance(part, dict) else ""
        url = url.get("url", "") if isinstance(url, dict) else url
        if url:
            shown.append(url)
        text = "<image>\n" if url else part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise ValueError("the user's turn: a part is neither text nor a picture")
        texts.append(text)
    if isinstance(urls, str):
        urls = [urls]
    text, pictures = "".join(texts), [url for url in [*shown, *urls] if isinstance(url, str)]
    if [PurePosixPath(url).name for url in pictures] == [PLACEHOLDER]:
        return text.replace("<image>", "").strip(), []
    return text.strip(), [candidates(url) for url in pictures]
