"""Where a reasoning model's response stops thinking and begins to answer."""

OPENING = "<think>"
CLOSING = "</think>"


def whole_response(prompt: str, text: str) -> str:
    """What was generated, after the "<think>" with which the chat template opened it."""
    return f"{OPENING}{text}" if prompt.rstrip().endswith(OPENING) else text


def after_thinking(response: str) -> str:
    """The part of a response that answers: what follows its last "</think>".

    A response without markers is all answer; one whose thinking never ends has none.
    """
    _, closed, answer = response.rpartition(CLOSING)
    if closed:
        return answer.strip()
    return "" if OPENING in response else response.strip()
