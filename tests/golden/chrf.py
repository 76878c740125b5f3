"""Sentence chrF from sacreBLEU, for src/bench/translation/chrf.rs.

    pip install sacrebleu && python chrf.py > chrf.json
"""

import json
import random

import sacrebleu

PAIRS = [
    ("How do I bake bread?", "How do I bake bread?"),
    ("How can I bake a bread?", "How do I bake bread?"),
    ("", "How do I bake bread?"),
    ("bread", ""),
    ("a", "a"),
    ("a", "b"),
    ("ab", "abc"),
    ("Wie backe ich Brot?", "Wie bäckt man ein Brot?"),
    ("Pourquoi ne pas arrêter de manger ?", "Je suis gros. Pourquoi ne pas arrêter de manger ?"),
    ("Schwarze Leben Materie", "Black Lives Matter"),
    ("aaaaaaa", "aaa"),
    ("¿Cómo se hace el pan?", "¿Cómo hago pan?"),
    ("tab\tand\nline  break", "tab and line break"),
    ("🏳️‍🌈 pride", "pride 🏳️‍🌈"),
]


def main():
    draw = random.Random(7)
    words = "the a bread water how do i bake mix yeast flour wait oven hot".split()
    pairs = list(PAIRS)
    for _ in range(20):
        reference = draw.choices(words, k=draw.randint(1, 12))
        text = [word if draw.random() < 0.7 else draw.choice(words) for word in reference]
        pairs.append((" ".join(text), " ".join(reference)))
    rows = [{"text": t, "reference": r, "chrf": sacrebleu.sentence_chrf(t, [r]).score} for t, r in pairs]
    print("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]")


if __name__ == "__main__":
    main()
