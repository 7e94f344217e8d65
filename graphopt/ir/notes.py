"""What a model says of itself that no runtime reads: descriptions and metadata."""

from __future__ import annotations

from google.protobuf.message import Message

_NOTES = ("doc_string", "metadata_props")


def remove_notes(message: Message) -> None:
    """Clear descriptions and metadata in a model, and in everything in it."""
    pending = [message]
    while pending:
        part = pending.pop()
        for field, content in part.ListFields():
            if field.name in _NOTES:
                part.ClearField(field.name)
            elif field.message_type is not None:
                pending.extend(content if field.is_repeated else [content])
