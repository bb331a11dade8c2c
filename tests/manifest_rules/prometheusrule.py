"""The schema of a PrometheusRule (monitoring.coreos.com/v1), and what each alert must contain.

A PrometheusRule is a custom resource, so Kubernetes has no schema for it. Here its expressions are
only strings: promtool checks them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

Duration = Annotated[
    str,
    Field(
        pattern=r"^(0|([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$",
        min_length=1,
    ),
]
Words = Annotated[str, Field(min_length=1)]


class _Closed(BaseModel):
    """Accept only the named fields, without a conversion of their values."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Labels(BaseModel):
    """The labels of an alert. The severity is required. Others are allowed."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, str]
    severity: Literal["critical", "warning", "info"]


class _Annotations(BaseModel):
    """The annotations of an alert. Summary and description are required. Others are allowed."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, str]
    summary: Words
    description: Words


class _Recording(_Closed):
    record: Annotated[str, Field(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")]
    expr: Words
    labels: dict[str, str] = {}


class _Alert(_Closed):
    alert: Words
    expr: Words
    wait: Annotated[Duration, Field(alias="for")] = "0"
    keep_firing_for: Duration = "0"
    labels: _Labels
    annotations: _Annotations


def _sort(rule: Any) -> str:
    return "record" if "record" in rule else "alert"


class _Group(_Closed):
    name: Words
    interval: Duration = "0"
    rules: Annotated[
        list[
            Annotated[
                Annotated[_Recording, Tag("record")] | Annotated[_Alert, Tag("alert")],
                Discriminator(_sort),
            ]
        ],
        Field(min_length=1),
    ]


class _Spec(_Closed):
    groups: Annotated[list[_Group], Field(min_length=1)]


class _Metadata(_Closed):
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
    namespace: Words
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class _PrometheusRule(_Closed):
    api_version: Annotated[Literal["monitoring.coreos.com/v1"], Field(alias="apiVersion")]
    kind: Literal["PrometheusRule"]
    metadata: _Metadata
    spec: _Spec


def faults(content: dict[str, Any]) -> list[str]:
    """Return the faults of a PrometheusRule, each with its field."""
    try:
        rule = _PrometheusRule.model_validate(content)
    except ValidationError as error:
        return [
            f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
            for detail in error.errors(include_url=False)
        ]
    names = [group.name for group in rule.spec.groups]
    return [
        f"spec.groups: two are called {name}"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
