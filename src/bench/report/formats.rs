//! Tables as Markdown, CSV and LaTeX.

use super::tables::{Cell, Sheet};
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

/// One table after another as CSV, each below a line with its title.
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

/// A field as in RFC 4180. What a spreadsheet would take for a formula is marked as text: names and texts come from
/// others. Numbers stay numbers.
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

/// Rows of the longest table that stands on one page.
const PAGE_ROWS: usize = 45;

/// Tables after which LaTeX must place what it holds back: it can hold 18.
const HELD_BACK: usize = 8;

/// All tables as LaTeX, coloured in the paper's bands. A table that is too wide is made smaller, one that is too long
/// is made several.
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
            text += if tables % HELD_BACK == 0 {
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

/// Text as LaTeX. A minus is no hyphen.
fn tex(text: &str) -> String {
    let mut escaped = String::new();
    let mut before = ' ';
    for (place, c) in text.char_indices() {
        let number_follows = text[place + c.len_utf8()..].starts_with(|next: char| next.is_ascii_digit());
        match c {
            '-' if before == ' ' && number_follows => escaped.push_str("$-$"),
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
        before = c;
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::{
        super::tables::{header, percent, plain},
        *,
    };

    #[test]
    fn a_long_table_is_made_several() {
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
