"""The program is found in a response."""

import pytest

from bai_pipeline.evals.code import extract_code


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("def f(): pass", "def f(): pass"),
        ("I cannot do this.", "I cannot do this."),
        ("", ""),
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```python\nx = 1\n```\n```python\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nIt prints:\n```\n1\n```", "x = 1\n"),
        ("```Python3 title=a\nx = 1\n```\n```sh\nls\n```", "x = 1\n"),
        ("```sh\nls\n```\n```\nx = 1\n```", "x = 1\n"),
        ("```python\r\nx = 1\r\ny = 2\r\n```\r\n", "x = 1\ny = 2\n"),
        ("```python\nx = 1\nif x:", "x = 1\nif x:\n"),
        ("- First:\n  ```python\n  if x:\n      y = 1\n\n  ```", "if x:\n    y = 1\n\n"),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''\n"),
        ("~~~python\nx = 1\n~~~", "x = 1\n"),
        ("```python\nx = '\x0c'\n```", "x = '\x0c'\n"),
        ("Use `f` and ```x``` here.", "Use `f` and ```x``` here."),
        ("```\n```", ""),
    ],
)
def test_the_last_block_of_python_is_taken(response: str, program: str) -> None:
    assert extract_code(response) == program
