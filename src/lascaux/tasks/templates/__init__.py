"""Prompt templates and class lists, published ones as data and the user's own."""

from lascaux.tasks.templates.read import (
    class_ids,
    class_list,
    class_list_names,
    read_templates,
    template_set_names,
)

__all__ = ["class_ids", "class_list", "class_list_names", "read_templates", "template_set_names"]
