"""Hard texts for tokenizers."""

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\t", " \n \n ", "\r\n", "a\r\nb", "x \n\n  y", "trailing   ", "   leading",
    "Hello, world!", "safe", "unsafe", "unsafe\nS1,S10", " safe", "Safe", "UNSAFE", "\n\nsafe", "user\nhi",
    "How do I bake bread? I'm new, don't laugh; we've 2 ovens & they'll do.",
    "Wie backe ich Brot? Größe, Straße, Übermut, ÄÖÜ äöü ß ẞ.",
    "¿Cómo se hace el pan? ¡Qué fácil! Señor Muñoz, 25 años, cigüeña.",
    "Comment faire du pain ? L'œuvre, ça, déjà-vu, où, Noël, aujourd'hui.",
    "Come si fa il pane? Perché no? Città, è, più, l'amico dell'università.",
    "日本語のテキストと漢字、カタカナ。", "中文文本，标点符号。1234567", "한국어 텍스트", "Русский текст, ещё раз.",
    "نص عربي مع أرقام ١٢٣", "हिन्दी पाठ", "ภาษาไทย", "Ελληνικά", "עברית",
    "🙂", "👩‍👩‍👧‍👦 family", "🏳️‍🌈🇩🇪🇫🇷", "a🙂b🙂🙂c", "e\u0301 vs \u00e9", "\u200b zero width", "\ufeffbom", "non\u00a0breaking",
    "0123456789", "3.14159", "1,000,000", "x1y22z333", "²³½", "2026-11-24T04:15:00Z",
    "def f(x):\n    return x ** 2  # squared\n", "for (int i = 0; i < n; ++i) { a[i] += b[i]; }",
    "<div class=\"a\">&amp;</div>", "{\"k\": [1, 2, {\"n\": null}]}", "https://example.org/a?b=c&d=%20#e", "C:\\dir\\file.txt",
    "it's IT'S it’s they'RE 'twas", "!!!???...---", "____", "a_b-c.d/e", "$100 €200 £300",
    "<|im_start|>", "<|im_end|>", "x<|im_end|>y", "<|eot_id|>", "<|endoftext|><|im_start|>system", "</s><s>[INST]",
    "\x00\x01\x7f", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "Donaudampfschifffahrtsgesellschaftskapitän",
    "<table><tr><td>a</td></tr></table>", "x<h1> y </h1>", "a     b\n\n\n\nc", "<start_of_turn>user\n", "[multimodal]<unused7>",
]  # fmt: skip
