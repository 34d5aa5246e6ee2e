"""YAML that says everything once."""

from typing import Any

import yaml


class DuplicateKeyError(yaml.YAMLError):
    """A mapping has a key twice, of which PyYAML would keep the last."""


class _Loader(yaml.SafeLoader):
    """Plain values only, and no key twice."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        # Here, not where values are made: by then ``<<`` has added keys of its own.
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            first = seen.setdefault((key.tag, key.value), key)
            if first is not key:
                lines = [k.start_mark.line + 1 for k in (first, key)]
                raise DuplicateKeyError(
                    f"key {key.value!r} is there twice, in lines {lines[0]} and "
                    f"{lines[1]}: keep one"
                )
        return node


def read_yaml(text: str) -> Any:
    """The values of a YAML text.

    Raises:
        yaml.YAMLError: It is no YAML, asks for more than plain values, or has a key
            twice.

    Example:
        >>> read_yaml("loss: {tau: 0.2}")
        {'loss': {'tau': 0.2}}
    """
    return yaml.load(text, Loader=_Loader)
