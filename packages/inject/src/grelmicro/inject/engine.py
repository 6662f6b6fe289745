"""The engine without its binder, for those who decide by rules of their own what a parameter gets.

A `Node` is one value: what makes it, and its parameters. Binding these makes a graph; `plan_for`
writes it down as steps; a `Scope` runs down the steps.
"""

from grelmicro.inject._declarations import Kind, adapter_of, declare, described, place_of
from grelmicro.inject._nodes import EMPTY, Binding, Node, Parameter, Step, given_node, node_of
from grelmicro.inject._plans import in_order, plan_for
from grelmicro.inject._scope import Host, Scope
from grelmicro.inject._shield import shielded
from grelmicro.inject._types import UNKNOWN, Unresolved, serves, type_name

__all__ = [
    "EMPTY",
    "UNKNOWN",
    "Binding",
    "Host",
    "Kind",
    "Node",
    "Parameter",
    "Scope",
    "Step",
    "Unresolved",
    "adapter_of",
    "declare",
    "described",
    "given_node",
    "in_order",
    "node_of",
    "place_of",
    "plan_for",
    "serves",
    "shielded",
    "type_name",
]
