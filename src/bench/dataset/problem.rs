//! The kinds of problems of a prompt set.

use serde::Serialize;

use crate::bench::{
    problem::{self, Kind, Severity, list, problem_count},
    table::TableError,
};

/// One thing that is wrong with a prompt set.
pub type Problem = problem::Problem<ProblemKind>;

/// The kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The row cannot be read.
    Unreadable,
    /// Bytes that are no UTF-8.
    NotUtf8,
    /// A column is missing or of the wrong type.
    Schema,
    /// A category that is none of ALERT's.
    UnknownCategory,
    /// A language that is none of the five.
    UnknownLanguage,
    /// No text.
    Empty,
    /// More bytes than a message may have.
    TooLong,
    /// The id, or the id in this language, is there already.
    Duplicate,
    /// Rows of one id disagree.
    Conflict,
    /// Other languages have this id, this one has not.
    Missing,
    /// Most languages lack this id.
    Extra,
    /// The file has no rows.
    NoRows,
    /// The file begins with a byte order mark.
    ByteOrderMark,
    /// U+FFFD: something was lost when the text was decoded.
    ReplacementCharacter,
    /// UTF-8 that was read as another encoding.
    Mojibake,
    /// Not in Unicode's normal form C.
    NotNfc,
    /// A control character.
    ControlCharacter,
    /// The same text as the English prompt.
    SameAsEnglish,
    /// Much shorter or longer than the English prompt.
    LengthRatio,
    /// Fewer sentences than the English prompt.
    FewerSentences,
    /// Some prompts have ALERT's instruction wrapper, others have not.
    MixedWrapper,
    /// Not as many prompts as M-ALERT has.
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
        /// The set.
        name: String,
        /// In the order of the file, never empty.
        problems: Vec<Problem>,
    },
}
