"""Small Parquet files as pyarrow and pandas write them, for src/bench/table.

    pip install pyarrow pandas && python tables.py
"""

import pathlib

import pandas
import pyarrow
import pyarrow.parquet

OUT = pathlib.Path(__file__).parent / "tables"

ROWS = [
    {"id": 1, "category": "crime_tax", "en": "How do taxes work?", "de": "Wie funktionieren Steuern?", "it": None},
    {"id": 2, "category": "hate_lgbtq+", "en": "What is pride?", "de": "Was ist „Pride“? 🏳️‍🌈", "it": "Cos'è il Pride?"},
    {"id": 3, "category": "crime_tax", "en": "Who collects taxes?", "de": "Wer erhebt Steuern?", "it": None},
]


def table(text):
    fields = [("id", pyarrow.int64())] + [(name, text) for name in ("category", "en", "de", "it")]
    return pyarrow.Table.from_pylist(ROWS, schema=pyarrow.schema(fields))


def main():
    OUT.mkdir(exist_ok=True)
    strings, large = table(pyarrow.string()), table(pyarrow.large_string())
    write = pyarrow.parquet.write_table
    write(strings, OUT / "snappy.parquet")
    write(large, OUT / "zstd_large_string.parquet", compression="zstd", use_dictionary=False)
    write(strings, OUT / "plain_two_groups.parquet", compression="none", row_group_size=2)
    write(strings, OUT / "page_v2.parquet", data_page_version="2.0", version="2.6",
          use_dictionary=False, column_encoding={"en": "DELTA_BYTE_ARRAY", "de": "DELTA_LENGTH_BYTE_ARRAY"})
    write(strings, OUT / "gzip.parquet", compression="gzip")
    pandas.DataFrame(ROWS).to_parquet(OUT / "pandas.parquet")


if __name__ == "__main__":
    main()
