//! The tables in Markdown, CSV and LaTeX.

use super::sheet::{Cell, Sheet};
use crate::bench::scores::Band;

/// All tables as Markdown.
pub fn markdown(sheets: &[Sheet]) -> String {
    let escape = |text: &str| {
        text.replace('\\', "\\\\")
            .replace('|', "\\|")
            .replace('<', "&lt;")
            .replace('\n', " ")
    };
    let mut text = String::new();
    for sheet in sheets {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        text.push_str(&format!("## {}\n\n", escape(&sheet.title)));
        text.push_str(&line(sheet.header.iter().map(|cell| escape(cell)).collect()));
        let rules = (0..sheet.header.len()).map(|column| if column == 0 { "---" } else { "---:" });
        text.push_str(&line(rules.map(str::to_owned).collect()));
        for row in &sheet.rows {
            text.push_str(&line(row.iter().map(|cell| escape(&cell.text)).collect()));
        }
        text.push('\n');
    }
    text
}

/// All tables as CSV, one after the other, each below a line with its title.
pub fn csv(sheets: &[Sheet]) -> String {
    let line = |cells: Vec<String>| cells.join(",") + "\r\n";
    let mut text = String::new();
    for sheet in sheets {
        text.push_str(&line(vec![field(&sheet.title)]));
        text.push_str(&line(sheet.header.iter().map(|cell| field(cell)).collect()));
        for row in &sheet.rows {
            text.push_str(&line(row.iter().map(|cell| field(&cell.text)).collect()));
        }
        text.push_str("\r\n");
    }
    text
}

/// A field as RFC 4180 writes it. Names and texts come from other people, so a text that a spreadsheet would run as a
/// formula is marked as text. Numbers stay numbers.
pub fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    let text = if formula {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

/// Number of rows of the longest table that fits on one page.
const PAGE_ROWS: usize = 45;

/// LaTeX can hold back at most 18 tables, so after this many it is told to place the ones that it holds back.
const TABLES_PER_PAGE_BREAK: usize = 8;

/// All tables as LaTeX, coloured in the paper's bands. A table that is too wide is scaled down, and one that is too long is
/// split.
pub fn latex(sheets: &[Sheet]) -> String {
    let mut text = "% Needs \\usepackage{booktabs,graphicx} and \\usepackage[table]{xcolor}.\n\
                    \\definecolor{bandsafe}{gray}{0.85}\\definecolor{bandmiddle}{HTML}{FFD8A8}\n\
                    \\definecolor{bandunsafe}{HTML}{FFC9C9}\n\n"
        .to_owned();
    let mut tables = 0;
    for sheet in sheets {
        let columns = format!("l{}", "r".repeat(sheet.header.len().saturating_sub(1)));
        let line = |cells: Vec<String>| cells.join(" & ") + " \\\\\n";
        let header = line(sheet.header.iter().map(|cell| tex(cell)).collect());
        let mut rows: Vec<String> = sheet
            .rows
            .iter()
            .map(|row| line(row.iter().map(tex_cell).collect()))
            .collect();
        if let (true, Some(last)) = (sheet.total, rows.last_mut()) {
            last.insert_str(0, "\\midrule\n");
        }
        let parts = rows.chunks(PAGE_ROWS).len();
        for (part, rows) in rows.chunks(PAGE_ROWS).enumerate() {
            let mut caption = tex(&sheet.title);
            if parts > 1 {
                caption += &format!(" ({} of {parts})", part + 1);
            }
            text += &format!(
                "\\begin{{table}}[htbp]\n\\centering\n\\caption{{{caption}}}\n\
                 \\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n\
                 \\begin{{tabular}}{{{columns}}}\n\\toprule\n{header}\\midrule\n{}\\bottomrule\n\
                 \\end{{tabular}}}}\n\\end{{table}}\n",
                rows.concat()
            );
            tables += 1;
            text += if tables % TABLES_PER_PAGE_BREAK == 0 {
                "\\clearpage\n\n"
            } else {
                "\n"
            };
        }
    }
    text
}

fn tex_cell(cell: &Cell) -> String {
    let colour = match cell.band {
        Some(Band::Safe) => "\\cellcolor{bandsafe}",
        Some(Band::Middle) => "\\cellcolor{bandmiddle}",
        Some(Band::Unsafe) => "\\cellcolor{bandunsafe}",
        None => "",
    };
    format!("{colour}{}", tex(&cell.text))
}

/// Text as LaTeX. A hyphen in front of a number becomes a minus sign.
fn tex(text: &str) -> String {
    let mut escaped = String::new();
    let mut previous = ' ';
    for (index, c) in text.char_indices() {
        let number_follows = text[index + c.len_utf8()..].starts_with(|next: char| next.is_ascii_digit());
        match c {
            '-' if previous == ' ' && number_follows => escaped.push_str("$-$"),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '<' => escaped.push_str("\\textless{}"),
            '>' => escaped.push_str("\\textgreater{}"),
            '|' => escaped.push_str("\\textbar{}"),
            '"' => escaped.push_str("''"),
            '\n' | '\r' | '\t' => escaped.push(' '),
            '%' | '&' | '#' | '_' | '$' | '{' | '}' => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
        previous = c;
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::{
        super::sheet::{header, percent, plain},
        *,
    };

    #[test]
    fn a_long_table_is_split() {
        let sheet = Sheet {
            title: "long".to_owned(),
            header: header("a", ["b".to_owned()]),
            rows: vec![vec![plain("x"), percent(None)]; PAGE_ROWS + 2],
            total: true,
        };
        let latex = latex(&vec![sheet; 4]);
        assert_eq!(latex.matches("\\begin{table}").count(), 8);
        assert_eq!(latex.matches("\\caption{long (2 of 2)}").count(), 4);
        assert_eq!(latex.matches("\\midrule\nx & ").count(), 8 + 4);
        assert!(latex.ends_with("\\clearpage\n\n"));
    }

    #[test]
    fn texts_of_others_cannot_break_out_of_a_cell() {
        let sheet = Sheet {
            title: "50 % & more".to_owned(),
            header: header("a_b", ["c".to_owned()]),
            rows: vec![vec![plain("=1+1|<b>, \"x\""), percent(Some(89.5))]],
            total: false,
        };
        let sheets = [sheet];
        assert_eq!(
            csv(&sheets),
            "50 % & more\r\na_b,c\r\n\"'=1+1|<b>, \"\"x\"\"\",89.50\r\n\r\n"
        );
        assert!(markdown(&sheets).contains("| =1+1\\|&lt;b>, \"x\" | 89.50 |"));
        let latex = latex(&sheets);
        assert!(latex.contains("50 \\% \\& more") && latex.contains("a\\_b & c"));
        assert!(latex.contains("\\cellcolor{bandunsafe}89.50"));
        assert_eq!(
            tex("50%_ü -1.5 a-1 \\<{x}|\"y\"\n"),
            "50\\%\\_ü $-$1.5 a-1 \\textbackslash{}\\textless{}\\{x\\}\\textbar{}''y'' "
        );
        assert_eq!(
            (field("-1.5"), field("-x")),
            ("-1.5".to_owned(), "'-x".to_owned())
        );
    }
}
