"""The table at the end."""


def number(value) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def verdict(line: dict) -> str:
    """The share of what is possible, and whether a goal is reached."""
    parts = []
    if line.get("share") is not None:
        parts.append(f"{line['share']:.0%} of {number(line['limit'])}")
    if line.get("goal_share") is not None and line.get("share") is not None:
        reached = line["share"] >= line["goal_share"]
        parts.append(f"goal {line['goal_share']:.0%} {'reached' if reached else 'MISSED'}")
    if line.get("goal") is not None:
        parts.append(f"goal {number(line['goal'])} {'reached' if line['value'] >= line['goal'] else 'MISSED'}")
    if line.get("status") not in (None, "ok"):
        parts.append(f"{line['status']}: {line['fix']}")
    if line.get("why"):
        parts.append(f"{line['outcome']}: {line['why']}")
    return ", ".join(parts)


def table(lines: list) -> str:
    rows = [("step", "model or peer", "what", "value", "unit", "")]
    for line in lines:
        whose = line.get("peer") or line.get("model") or ""
        rows.append((line["step"], whose, line["name"], number(line["value"]), line["unit"], verdict(line)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[5]]).rstrip() for row in rows
    )
