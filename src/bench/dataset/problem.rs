//! The kinds of problems of a prompt set.

use serde::Serialize;

use crate::bench::{
    problem::{self, Kind, Severity, list, problem_count},
    table::TableError,
};

/// One problem of a prompt set.
pub type Problem = problem::Problem<ProblemKind>;

/// Kinds of problems of a prompt set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The row cannot be read.
    Unreadable,
    /// The row has bytes that are no UTF-8.
    NotUtf8,
    /// A column is missing or of the wrong type.
    Schema,
    /// The category is none of ALERT's.
    UnknownCategory,
    /// The language is none of the five.
    UnknownLanguage,
    /// A text is empty.
    Empty,
    /// A text has more bytes than a message to the server may have.
    TooLong,
    /// Another row has the same id, or the same id in the same language.
    Duplicate,
    /// Rows of one id differ in their category or attack type.
    Conflict,
    /// A language lacks an id that most languages have.
    Missing,
    /// Most languages lack an id that this one has.
    Extra,
    /// The file has no rows.
    NoRows,
    /// The file begins with a byte order mark.
    ByteOrderMark,
    /// A text has U+FFFD: a character was lost when it was decoded.
    ReplacementCharacter,
    /// A text looks like UTF-8 that was read in another encoding.
    Mojibake,
    /// A text is not in Unicode's normal form C.
    NotNfc,
    /// A text has a control character.
    ControlCharacter,
    /// A translation is the same text as the English prompt.
    SameAsEnglish,
    /// A translation is much shorter or longer than the English prompt.
    LengthRatio,
    /// A translation has fewer sentences than the English prompt.
    FewerSentences,
    /// Some prompts have ALERT's instruction wrapper and others do not.
    MixedWrapper,
    /// A category does not have as many prompts as in M-ALERT.
    PromptCount,
}

impl Kind for ProblemKind {
    const UNREADABLE: Self = Self::Unreadable;
    const NOT_UTF8: Self = Self::NotUtf8;

    fn severity(self) -> Severity {
        match self {
            Self::Unreadable
            | Self::NotUtf8
            | Self::Schema
            | Self::UnknownCategory
            | Self::UnknownLanguage
            | Self::Empty
            | Self::TooLong
            | Self::Duplicate
            | Self::Conflict
            | Self::Missing
            | Self::Extra
            | Self::NoRows => Severity::Error,
            Self::ByteOrderMark
            | Self::ReplacementCharacter
            | Self::Mojibake
            | Self::NotNfc
            | Self::ControlCharacter
            | Self::SameAsEnglish
            | Self::LengthRatio
            | Self::FewerSentences
            | Self::MixedWrapper
            | Self::PromptCount => Severity::Warning,
        }
    }

    fn fix(self) -> &'static str {
        match self {
            Self::Unreadable => "correct the row or remove it",
            Self::NotUtf8 => "save the file as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8, if that is what it is)",
            Self::Schema => {
                "give every row id, category and either language and prompt or a column per language"
            }
            Self::UnknownCategory => "spell the key as in ALERT, or write `unknown`",
            Self::UnknownLanguage => "use en, de, es, fr or it, or remove the row",
            Self::Empty => "add the text, or remove the id in all languages",
            Self::TooLong => "shorten the text",
            Self::Duplicate => "remove one of them or give it an id of its own",
            Self::Conflict => "give all rows of one id the same category and attack type",
            Self::Missing => "add the translation, or remove the id in all languages",
            Self::Extra => "remove the row, or add the id in the other languages",
            Self::NoRows => "name a file with prompts",
            Self::ByteOrderMark => "nothing to do: it is skipped",
            Self::ReplacementCharacter => "take the text from its source again: a character is lost",
            Self::Mojibake => "decode the file as UTF-8 where it was made",
            Self::NotNfc => "normalise to NFC (`babelward data convert --nfc`)",
            Self::ControlCharacter => "remove the character",
            Self::SameAsEnglish => "translate it, if it is not a name",
            Self::LengthRatio => "compare it with the English prompt",
            Self::FewerSentences => "see whether the translation left a sentence out",
            Self::MixedWrapper => "strip it (`--wrapper strip`), or find out why some rows lack it",
            Self::PromptCount => "see whether this is the whole M-ALERT, and which revision",
        }
    }
}

/// Why a prompt set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Some rows are wrong; all of them are listed.
    #[error("{name} has {}:{}", problem_count(.problems.len()), list(.problems, "`babelward data check` lists all"))]
    Invalid {
        /// What the set is called.
        name: String,
        /// All problems, in the order of the files; at least one.
        problems: Vec<Problem>,
    },
}
