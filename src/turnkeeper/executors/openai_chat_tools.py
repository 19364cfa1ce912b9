"""The tools of a chat agent: how a function is described to the model, read and called.

Pydantic reads the types of the parameters, docstring-parser the docstring. The program's own
functions are called with the types that they declare.
"""

import asyncio
import contextlib
import copy
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable
from inspect import Parameter
from typing import Annotated, Any, NotRequired, Required, Self

import msgspec

from turnkeeper.core import values
from turnkeeper.core.texts import encodable
from turnkeeper.errors import ValidationFailed
from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.steps import StepRule

try:
    import docstring_parser
    from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter, WithJsonSchema
    from pydantic.errors import PydanticUserError
    from pydantic.fields import FieldInfo
    from pydantic.json_schema import GenerateJsonSchema
    from pydantic_core import PydanticSerializationError, ValidationError, to_json
    from typing_extensions import TypedDict
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai") from missing

Json = dict[str, Any]

_LIST: Any = list
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OWN = "x-msgspec"
_NO_SCHEMA = (TypeError, ValueError, NameError, PydanticUserError)
"""What Pydantic, msgspec and `typing` raise for a type that they cannot read."""
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class _Untitled(GenerateJsonSchema):
    """JSON schemas without a title for each field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        del schema
        return False


class ChatTool:
    """A function that the model may call; its signature and docstring are what the model reads.

    `function`: a function, method, partial, or object with `__call__`, ordinary or async; values
    that a partial binds by keyword are not shown to the model. `rule`: how its calls are recorded,
    None for not at all. `needs_approval`: a person has to approve each call. `name`: 1 to 64 of
    `A-Z a-z 0-9 _ -`; None takes the function's, or the class's name of an object.

    Raises `ValidationFailed` for a parameter without a type that has a JSON schema, an annotation
    that cannot be resolved, or a name that the protocol does not allow. [ADP-32]
    """

    def __init__(
        self,
        function: Callable[..., Any],
        rule: StepRule | None = None,
        *,
        needs_approval: bool = False,
        name: str | None = None,
    ) -> None:
        if not callable(function):
            raise ValidationFailed(f"a tool is a function, not {function!r:.100}")
        self.function = function
        self.rule = rule
        self.needs_approval = needs_approval
        inner, bound = _unwrapped(function)
        self.name: str = name or getattr(inner, "__name__", "") or type(inner).__name__
        if not _NAME.fullmatch(self.name):
            raise ValidationFailed(
                f"a tool cannot be called {self.name!r}: give it a name of 1 to 64 letters, "
                "digits, _ and -, with durable_tool(..., name=...) or ChatTool(..., name=...)"
            )
        doc = inspect.getdoc(inner) or ""
        try:
            self._parameters = [
                p for p in inspect.signature(function).parameters.values() if p.name not in bound
            ]
            fields = self._fields(_hints(inner), docstring_parser.parse(doc))
            self._arguments = _object_of(self.name, *fields)
            parameters = self._arguments.json_schema(schema_generator=_Untitled)
        except _NO_SCHEMA as error:
            raise ValidationFailed(f"tool {self.name!r}: {error}") from error
        parameters.pop("title", None)
        _place_own(parameters)
        self.described = {
            "type": "function",
            "function": {"name": self.name, "description": doc, "parameters": parameters},
        }

    def _fields(
        self, hints: Json, doc: docstring_parser.Docstring
    ) -> tuple[dict[str, Any], Any | None]:
        """The types of the parameters by name, and that of further names, None for none."""
        said = {param.arg_name.lstrip("*"): param.description for param in doc.params}
        fields: dict[str, Any] = {}
        further: Any | None = None
        self._defaults: Json = {}
        self._made: dict[str, FieldInfo] = {}
        for p in self._parameters:
            hint: Any = hints.get(p.name, Any)
            if p.kind is Parameter.VAR_KEYWORD and typing.get_origin(hint) is typing.Unpack:
                (named,) = typing.get_args(hint)
                for name, kind in typing.get_type_hints(named, include_extras=True).items():
                    fields[name] = _named_field(named, name, kind, said.get(name))
            elif p.kind is Parameter.VAR_KEYWORD:
                further = _typed(hint, None)
            elif p.kind is Parameter.VAR_POSITIONAL:
                fields[p.name] = NotRequired[_typed(_LIST[hint], said.get(p.name))]
            else:
                fields[p.name] = self._field(p, hint, said.get(p.name))
        return fields, further

    def _field(self, p: Parameter, hint: Any, description: str | None) -> Any:
        default = p.default
        if isinstance(default, FieldInfo):  # `days: int = Field(3, ge=1)`
            made = default.metadata
            hint = Annotated[hint, Field(description=default.description), *made]
            if default.is_required():
                return _typed(hint, description)
            self._made[p.name] = default
            if default.default_factory is not None:  # another value for each call
                return NotRequired[_typed(hint, description)]
            default = default.default
        field = _typed(hint, description)
        if default is Parameter.empty:
            return field
        return NotRequired[self._with_default(p.name, field, default)]

    def _with_default(self, name: str, field: Any, default: Any) -> Any:
        try:
            value = TypeAdapter(field).dump_python(default, mode="json", warnings="error")
        except PydanticSerializationError:
            return field  # a default that has no JSON is the program's own
        self._defaults[name] = value
        return Annotated[field, Field(json_schema_extra={"default": value})]

    def with_rule(self, rule: StepRule) -> Self:
        """Return the same tool with another rule; this one stays as it is."""
        made = copy.copy(self)
        made.rule = rule
        return made

    def read(self, arguments: str) -> Json:
        """Return the arguments by name, in the types that the function declares. [ADP-32]

        `arguments`: a JSON object, or an array of the positional ones; nothing is `{}`. Raises
        `ValueError`, with a text for the model, if the model got them wrong.
        """
        try:
            given: Json = self._arguments.validate_json(self._object(arguments))
        except ValidationError as error:
            raise ValueError(_told(error)) from error
        for name, field in self._made.items():
            if name not in given:
                given[name] = field.get_default(call_default_factory=True, validated_data=given)
        return given

    def plain(self, arguments: str) -> Json:
        """Return arguments that `read` accepts as plain JSON by name, defaults included."""
        given: Json = msgspec.json.decode(self._object(arguments), type=Json)
        known = {**self._defaults, **given}
        names = [p.name for p in self._parameters if p.name in known]
        return {**{name: known[name] for name in names}, **given}

    def _object(self, arguments: str) -> str:
        text = arguments.strip()
        if text in ("", "null"):
            return "{}"
        if not text.startswith("["):
            return text
        names = [p.name for p in self._parameters if p.kind in _POSITIONAL]
        given = msgspec.json.decode(text, type=list[Any])
        made: Json = dict(zip(names, given, strict=False))
        rest = given[len(names) :]
        if rest:
            variable = (p.name for p in self._parameters if p.kind is Parameter.VAR_POSITIONAL)
            name = next(variable, None)
            if name is None:
                raise ValueError(f"there are {len(given)} arguments, and {len(names)} at most")
            made[name] = rest
        return msgspec.json.encode(made).decode()

    def _bound(self, arguments: Json) -> tuple[list[Any], Json]:
        rest = dict(arguments)
        args: list[Any] = []
        kwargs: Json = {}
        variable = any(p.kind is Parameter.VAR_POSITIONAL for p in self._parameters)
        for p in self._parameters:
            if p.kind is Parameter.VAR_KEYWORD:
                continue
            if p.kind is Parameter.VAR_POSITIONAL:
                args += rest.pop(p.name, ())
            elif p.kind is Parameter.POSITIONAL_ONLY or (variable and p.kind in _POSITIONAL):
                args.append(rest.pop(p.name, p.default))
            elif p.name in rest:
                kwargs[p.name] = rest.pop(p.name)
        return args, {**rest, **kwargs}

    async def call(self, arguments: Json) -> Any:
        """Call the function: an ordinary one in a thread. Gives what it returns."""
        args, kwargs = self._bound(arguments)
        if _is_async(self.function):
            value = await self.function(*args, **kwargs)
        else:
            value = await asyncio.to_thread(self.function, *args, **kwargs)
            if inspect.isawaitable(value):
                value = await value
        return value


def in_words(value: Any) -> str:
    """Return what the model is told of a tool's value: a text as it is, all else as JSON.

    It raises nothing: what has no form in JSON is text. [ADP-32]
    """
    if isinstance(value, str):
        return encodable(str.__str__(value))
    kept = values.unpack(values.pack(value))
    if isinstance(kept, str):  # a durable tool's record has nothing else either
        return kept
    for one in (value, kept):
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            return to_json(
                one, bytes_mode="base64", inf_nan_mode="null", fallback=_in_json
            ).decode()
    return msgspec.json.encode(kept, enc_hook=str).decode()


def _in_json(value: Any) -> Any:
    """Return a value that Pydantic does not know in parts that it may know."""
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    known = values.unpack(values.pack(value))
    return str(known) if type(known) is type(value) else known


def durable_tool(
    tool: Callable[..., Any],
    *,
    idempotent: bool = False,
    reconcile: Callable[..., Any] | None = None,
    needs_approval: bool = False,
    name: str | None = None,
) -> ChatTool:
    """Make a tool a durable step: it is called once for each call of the model. [ADP-7]

    Where a crash leaves it unknown whether it was called: `reconcile`, given the tool's arguments
    by name, says what it came to (or `NOT_DONE`); with `idempotent=True` it is called again; else
    the turn is parked as `outcome_unknown`. `needs_approval`: a person has to approve each call
    before it is made; the turn ends and waits. [ADP-12] `name`: as in `ChatTool`.
    """
    rule = StepRule(idempotent=idempotent, reconcile=reconcile)
    return ChatTool(tool, rule, needs_approval=needs_approval, name=name)


def schema_of(kind: Any) -> Json:
    """Return the JSON schema of a type. Raises `ValidationFailed` if it has none."""
    try:
        try:
            return TypeAdapter(kind).json_schema()
        except PydanticUserError:
            return msgspec.json.schema(kind)
    except _NO_SCHEMA as error:
        raise ValidationFailed(f"{kind!r:.100} has no JSON schema: {error}") from error


def _unwrapped(function: Callable[..., Any]) -> tuple[Callable[..., Any], set[str]]:
    """What a partial wraps, and the names that it binds by keyword."""
    bound: set[str] = set()
    while isinstance(function, functools.partial):
        bound |= set(function.keywords)
        function = function.func
    return function, bound


def _is_async(function: Callable[..., Any]) -> bool:
    inner, _ = _unwrapped(function)
    called = inner if inspect.isroutine(inner) else type(inner).__call__
    return inspect.iscoroutinefunction(called)


def _hints(function: Callable[..., Any]) -> Json:
    """The types of the parameters. The type of the result is not read, and may be unknown."""
    called: Any = function if inspect.isroutine(function) else type(function).__call__
    if inspect.isclass(function):
        called = function.__init__
    called = inspect.unwrap(called)
    declared = {k: v for k, v in inspect.get_annotations(called).items() if k != "return"}
    holder: Any = types.SimpleNamespace(__annotations__=declared)
    return typing.get_type_hints(holder, getattr(called, "__globals__", {}), include_extras=True)


def _typed(hint: Any, description: str | None) -> Any:
    """A parameter's type as Pydantic reads it, with what describes it."""
    metadata = getattr(hint, "__metadata__", ())
    fields = [one.description for one in metadata if isinstance(one, FieldInfo)]
    words = [*fields, *(getattr(one, "documentation", one) for one in metadata), description]
    said = next((one for one in words if isinstance(one, str)), None)
    try:
        TypeAdapter(hint)
    except PydanticUserError:
        schema = msgspec.json.schema(hint)  # a type of msgspec's, or one that nothing can read
        reads = PlainValidator(functools.partial(_converted, hint))
        hint = Annotated[Any, reads, WithJsonSchema({_OWN: msgspec.json.encode(schema).decode()})]
    return Annotated[hint, Field(description=said)] if said else hint


def _named_field(named: Any, name: str, hint: Any, description: str | None) -> Any:
    """A field of the `TypedDict` in `**kwargs: Unpack[...]`."""
    wrapped = typing.get_origin(hint)
    needed = name in named.__required_keys__
    if wrapped in (Required, NotRequired):
        needed = wrapped is Required
        (hint,) = typing.get_args(hint)
    field = _typed(hint, description)
    return field if needed else NotRequired[field]


def _place_own(parameters: Json) -> None:
    """Put the schemas that msgspec has made into their places, and their definitions to the root.

    Pydantic would look for their definitions among its own.
    """
    for one in (*parameters["properties"].values(), parameters.get("additionalProperties")):
        if isinstance(one, dict) and _OWN in one:
            one.update(msgspec.json.decode(one.pop(_OWN)))
            if "$defs" in one:
                parameters.setdefault("$defs", {}).update(one.pop("$defs"))


def _converted(kind: Any, value: Any) -> Any:
    return msgspec.convert(value, kind)


def _object_of(name: str, fields: Json, further: Any | None) -> TypeAdapter[Any]:
    make: Any = TypedDict
    if further is not None:
        return TypeAdapter(make(name, fields, extra_items=further))
    made = make(name, fields)
    made.__pydantic_config__ = ConfigDict(extra="forbid")
    return TypeAdapter(made)


def _told(error: ValidationError) -> str:
    """What is wrong with arguments, one fault after another, for the model."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    said = (
        ": ".join([*([".".join(map(str, fault["loc"]))] if fault["loc"] else []), fault["msg"]])
        for fault in faults
    )
    return "; ".join(said)
