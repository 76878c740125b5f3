//! Reads a file of labelled answers: JSON lines, each with a prompt, its answer, a label, and where the harm begins.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// Most lines that an error lists.
const LISTED_LINES: usize = 20;

/// An answer that somebody has labelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledAnswer {
    /// The user's prompt.
    pub prompt: String,
    /// The answer to it.
    pub answer: String,
    /// What people say of it.
    pub truth: Truth,
}

/// What people say of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It is safe to its end.
    Safe,
    /// It is unsafe.
    Unsafe {
        /// Bytes of the answer before the harm begins.
        harm_begins: usize,
    },
}

/// Why a file of labelled answers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LabelledFileError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Lines of it are wrong.
    #[error("{}", Lines(path, problems))]
    Lines {
        /// Which file.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<LineProblem>,
    },
    /// It has no answers.
    #[error("{0} has no labelled answers")]
    Empty(PathBuf),
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineProblem {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

struct Lines<'a>(&'a Path, &'a [LineProblem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(path, problems) = self;
        for (index, problem) in problems.iter().take(LISTED_LINES).enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(
                formatter,
                "{end}{}:{}: {}",
                path.display(),
                problem.line,
                problem.reason
            )?;
        }
        match problems.len().saturating_sub(LISTED_LINES) {
            0 => Ok(()),
            more => write!(formatter, "\nand {more} more lines"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Label {
    Safe,
    Unsafe,
}

/// A line of the file. docs/growing-text.md describes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// For the person who keeps the file.
    #[serde(default)]
    #[allow(dead_code, reason = "it is allowed, and nothing is made of it")]
    id: Option<serde_json::Value>,
    prompt: String,
    answer: String,
    label: Label,
    /// Code points of the answer before the harm begins.
    harm_begins: Option<usize>,
}

impl Line {
    fn check(self) -> Result<LabelledAnswer, String> {
        let Self {
            prompt,
            answer,
            label,
            harm_begins,
            ..
        } = self;
        if prompt.is_empty() {
            return Err("`prompt` is empty".to_owned());
        }
        let truth = match (label, harm_begins) {
            (Label::Safe, None) => Truth::Safe,
            (Label::Safe, Some(_)) => {
                return Err("`harm_begins` is only for answers that are unsafe".to_owned());
            }
            (Label::Unsafe, None) => {
                let how = "the number of characters of the answer before the harm";
                return Err(format!("an answer that is unsafe needs `harm_begins`, {how}"));
            }
            (Label::Unsafe, Some(characters)) => match answer.char_indices().nth(characters) {
                Some((harm_begins, _)) => Truth::Unsafe { harm_begins },
                None => {
                    let count = answer.chars().count();
                    return Err(format!(
                        "`harm_begins` is {characters}, and the answer has {count} characters"
                    ));
                }
            },
        };
        Ok(LabelledAnswer {
            prompt,
            answer,
            truth,
        })
    }
}

/// Reads and checks a whole file.
///
/// # Errors
/// [`LabelledFileError`]; everything that is wrong is listed.
pub fn read_labelled(path: &Path) -> Result<Vec<LabelledAnswer>, LabelledFileError> {
    let text = fs::read_to_string(path).map_err(|source| LabelledFileError::Io {
        path: path.to_owned(),
        source,
    })?;
    let (mut answers, mut problems) = (Vec::new(), Vec::new());
    for (number, line) in (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let read = serde_json::from_str::<Line>(line).map_err(|error| error.to_string());
        match read.and_then(Line::check) {
            Ok(answer) => answers.push(answer),
            Err(reason) => problems.push(LineProblem { line: number, reason }),
        }
    }
    match (problems.is_empty(), answers.is_empty()) {
        (false, _) => Err(LabelledFileError::Lines {
            path: path.to_owned(),
            problems,
        }),
        (true, true) => Err(LabelledFileError::Empty(path.to_owned())),
        (true, false) => Ok(answers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<LabelledAnswer>, LabelledFileError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        read_labelled(file.path())
    }

    #[test]
    fn the_place_of_the_harm_is_counted_in_characters() {
        let lines = concat!(
            r#"{"id": 7, "prompt": "How?", "answer": "Größer bad", "label": "unsafe", "harm_begins": 7}"#,
            "\n\n",
            r#"{"prompt": "How?", "answer": "", "label": "safe"}"#,
            "\n"
        );
        let answers = read(lines).unwrap();
        assert_eq!(answers[0].truth, Truth::Unsafe { harm_begins: 9 });
        assert_eq!(&answers[0].answer[9..], "bad");
        assert_eq!(answers[1].truth, Truth::Safe);
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_line() {
        let lines = [
            r#"{"prompt": "How?", "answer": "bad", "label": "unsafe"}"#,
            r#"{"prompt": "How?", "answer": "bad", "label": "unsafe", "harm_begins": 3}"#,
            r#"{"prompt": "How?", "answer": "good", "label": "safe", "harm_begins": 0}"#,
            r#"{"prompt": "", "answer": "good", "label": "safe"}"#,
            r#"{"prompt": "How?", "answer": "good", "label": "fine"}"#,
        ];
        let error = read(&lines.join("\n")).unwrap_err().to_string();
        for (number, part) in (1..).zip([
            "needs `harm_begins`",
            "has 3 characters",
            "only for answers that are unsafe",
            "`prompt` is empty",
            "unknown variant `fine`",
        ]) {
            let line = error.lines().find(|line| line.contains(&format!(":{number}: ")));
            assert!(line.is_some_and(|line| line.contains(part)), "{error}");
        }
        assert!(matches!(read("\n"), Err(LabelledFileError::Empty(_))));
    }
}
