"""Markdown tables for the terminal and the docs."""


def table(head, rows):
    """Columns padded so that the source is readable too."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def share(part, whole):
    return "%d/%d = %.1f %%" % (part, whole, 100.0 * part / whole) if whole else "0/0"


def describe(plan):
    """A plan in a few words: `cpu 12 + (http 3×20 | redis 40)`."""
    op = plan["op"]
    if op in ("serial", "parallel"):
        inner = (" + " if op == "serial" else " \\| ").join(describe(step) for step in plan["steps"])
        return inner if op == "serial" else "(" + inner + ")"
    name = "%s %s" % (plan.get("db", "pg"), plan["shape"]) if op == "sql" else op
    if plan.get("pipelined"):
        name += " pipelined"
    amount = "×".join("%g" % plan[key] for key in ("n", "ms") if key in plan)
    return name + " " + amount
