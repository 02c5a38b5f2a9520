from collections.abc import Mapping
from inspect import Signature
from typing import Any, Literal, TypeAlias, final

from numpy.typing import ArrayLike, DTypeLike, NDArray

_Out: TypeAlias = NDArray[Any] | tuple[NDArray[Any], ...]
_Stage: TypeAlias = Literal["parse", "graph", "simplified", "plan", "kernel", "clif", "asm"]

__all__ = ["Function", "__version__", "compile", "evaluate", "explain", "get_num_threads", "set_num_threads"]

__version__: str

@final
class Function:
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def expr(self) -> str: ...
    @property
    def __signature__(self) -> Signature: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...
    # An array; a tuple of arrays if the expression has several results.
    def __call__(self, *args: ArrayLike, **kwargs: ArrayLike | _Out | None) -> Any: ...

# An array; a tuple of arrays if the expression has several results.
def evaluate(
    expr: str,
    local_dict: Mapping[str, Any] | None = None,
    global_dict: Mapping[str, Any] | None = None,
    out: _Out | None = None,
    *,
    threads: int | None = None,
) -> Any: ...
def compile(expr: str, *, threads: int | None = None) -> Function: ...
def explain(expr: str, /, *, stage: _Stage | None = None, **inputs: ArrayLike | DTypeLike) -> str: ...
def set_num_threads(n: int, /) -> int: ...
def get_num_threads() -> int: ...
