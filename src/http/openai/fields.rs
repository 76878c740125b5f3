//! Takes the fields of a JSON request one by one, and notes everything that is wrong with them.
//!
//! OpenAI's requests have fields of several types, and most of their parameters are of no use here. A request that has one which
//! would be ignored is refused with its name, so every field has to be taken by somebody. Values are read where they stand in the
//! body: a request takes no more memory than its own bytes and what is made of them.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// Most fields of an object; none of OpenAI's has half as many.
const MOST_FIELDS: usize = 128;

/// Something that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// The field, as `messages[2].content[0]`; empty for the body as a whole.
    pub(super) param: String,
    /// What is wrong, as the rest of a sentence that begins with the field.
    pub(super) message: String,
}

/// Most problems of a request that are told; a caller may send a million wrong fields.
const MOST_PROBLEMS: usize = 16;

/// What is wrong with a request: the first problems that are found.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    /// Notes what is wrong with a field.
    pub(super) fn note(&mut self, param: impl Into<String>, message: impl Into<String>) {
        if self.0.len() < MOST_PROBLEMS {
            self.0.push(Problem {
                param: param.into(),
                message: message.into(),
            });
        }
    }

    /// The problems, if there are any.
    pub(super) fn finish(self) -> Result<(), Vec<Problem>> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(self.0),
        }
    }
}

/// Reads the fields of a request's body.
///
/// # Errors
/// Everything that is wrong with its form.
pub(super) fn read<T>(
    body: &[u8],
    request: impl FnOnce(Fields<'_>, &mut Problems) -> T,
) -> Result<T, Vec<Problem>> {
    let mut problems = Problems::default();
    let request = Fields::of_body(body, &mut problems).map(|fields| request(fields, &mut problems));
    problems.finish()?;
    // Without fields there was a problem.
    request.ok_or_else(Vec::new)
}

/// What kind of JSON a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Flag,
    Number,
    Text,
    List,
    Object,
}

/// The kind of a value, by its first character.
pub(super) fn kind(value: &RawValue) -> Kind {
    match value.get().as_bytes().first() {
        Some(b'"') => Kind::Text,
        Some(b'[') => Kind::List,
        Some(b'{') => Kind::Object,
        Some(b't' | b'f') => Kind::Flag,
        Some(b'n') | None => Kind::Null,
        Some(_) => Kind::Number,
    }
}

/// A text; `None` for anything else, and for half of a surrogate pair.
pub(super) fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// A list of whole numbers.
pub(super) fn token_ids(value: &RawValue) -> Option<Vec<u32>> {
    serde_json::from_str(value.get()).ok()
}

/// The first elements of a list.
pub(super) struct List<'a> {
    /// At most as many as were asked for.
    pub(super) first: Vec<&'a RawValue>,
    /// How many there are in the body.
    pub(super) count: usize,
}

/// The first elements of a list, at most so many; `None` for anything else.
pub(super) fn list(value: &RawValue, most: usize) -> Option<List<'_>> {
    struct First(usize);

    impl<'de> Visitor<'de> for First {
        type Value = List<'de>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
            let mut list = List {
                first: Vec::new(),
                count: 0,
            };
            while list.first.len() < self.0 {
                match elements.next_element()? {
                    Some(element) => list.first.push(element),
                    None => break,
                }
            }
            list.count = list.first.len();
            while elements.next_element::<IgnoredAny>()?.is_some() {
                list.count += 1;
            }
            Ok(list)
        }
    }

    serde_json::Deserializer::from_str(value.get())
        .deserialize_seq(First(most))
        .ok()
}

/// A field of an object.
struct Member<'a> {
    name: Cow<'a, str>,
    value: &'a RawValue,
}

/// The fields of an object that nobody has taken yet. A field that is `null` counts as absent.
pub(super) struct Fields<'a> {
    /// The object's own path, with a full stop at its end; empty for the body.
    path: String,
    members: Vec<Member<'a>>,
}

/// The members of an object, in their order.
struct Members<'a>(Vec<Member<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<Member<'de>> = Vec::new();
                while let Some((Key(name), value)) = map.next_entry()? {
                    if members.len() == MOST_FIELDS {
                        return Err(serde::de::Error::custom("too many fields"));
                    }
                    members.push(Member { name, value });
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// A name, which is not copied where nothing in it is escaped.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl<'de> Visitor<'de> for Name {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(Name)
    }
}

impl<'a> Fields<'a> {
    /// The fields of a request's body.
    ///
    /// # Errors
    /// The problem of a body that is no JSON object.
    pub(super) fn of_body(body: &'a [u8], problems: &mut Problems) -> Option<Self> {
        let value: Result<&RawValue, _> = serde_json::from_slice(body);
        match value {
            Ok(value) => Self::of(value, "", problems),
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                problems.note(
                    "",
                    format!("the body must be one JSON object in UTF-8; it is wrong at line {line}, column {column}"),
                );
                None
            }
        }
    }

    /// The fields of an object at a path.
    pub(super) fn of(value: &'a RawValue, path: &str, problems: &mut Problems) -> Option<Self> {
        let wrong = |problems: &mut Problems, reason: &str| {
            match path.is_empty() {
                true => problems.note("", format!("the body {reason}")),
                false => problems.note(path, reason),
            }
            None
        };
        if kind(value) != Kind::Object {
            return wrong(problems, "must be an object");
        }
        let Ok(Members(members)) = serde_json::from_str(value.get()) else {
            return wrong(
                problems,
                &format!("must have at most {MOST_FIELDS} fields, with names in Unicode"),
            );
        };
        let fields = Self {
            path: match path.is_empty() {
                true => String::new(),
                false => format!("{path}."),
            },
            members,
        };
        for (index, member) in fields.members.iter().enumerate() {
            let before = &fields.members[..index];
            if before.iter().any(|earlier| earlier.name == member.name) {
                problems.note(fields.shown(&member.name), "is there twice");
            }
        }
        Some(fields)
    }

    /// The path of a field.
    pub(super) fn path_of(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// The path of a field that the caller has named. What does not look like a name is not repeated.
    fn shown(&self, name: &str) -> String {
        let is_name = name.len() <= 64
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        match is_name && !name.is_empty() {
            true => self.path_of(name),
            false => self.path_of("(a field)"),
        }
    }

    /// Takes a field, whatever it is.
    pub(super) fn value(&mut self, name: &str) -> Option<&'a RawValue> {
        let index = self.members.iter().position(|member| member.name == name)?;
        let member = self.members.swap_remove(index);
        Some(member.value).filter(|value| kind(value) != Kind::Null)
    }

    /// Takes a field of one type, and notes where it has another.
    fn typed<T: Deserialize<'a>>(&mut self, name: &str, rule: &str, problems: &mut Problems) -> Option<T> {
        let value = self.value(name)?;
        let read = serde_json::from_str(value.get()).ok();
        if read.is_none() {
            problems.note(self.path_of(name), rule);
        }
        read
    }

    /// Takes a text.
    pub(super) fn text(&mut self, name: &str, problems: &mut Problems) -> Option<String> {
        self.typed(name, "must be a text", problems)
    }

    /// Takes a number.
    pub(super) fn number(&mut self, name: &str, problems: &mut Problems) -> Option<f64> {
        self.typed(name, "must be a number", problems)
    }

    /// Takes a whole number from 0 on.
    pub(super) fn whole(&mut self, name: &str, problems: &mut Problems) -> Option<u64> {
        self.typed(name, "must be a whole number from 0 on", problems)
    }

    /// Takes a whole number of 32 bits.
    pub(super) fn small(&mut self, name: &str, problems: &mut Problems) -> Option<u32> {
        self.typed(name, "must be a whole number from 0 to 4294967295", problems)
    }

    /// Takes `true` or `false`.
    pub(super) fn flag(&mut self, name: &str, problems: &mut Problems) -> Option<bool> {
        self.typed(name, "must be true or false", problems)
    }

    /// Takes an object.
    pub(super) fn object(&mut self, name: &str, problems: &mut Problems) -> Option<Self> {
        let value = self.value(name)?;
        Self::of(value, &self.path_of(name), problems)
    }

    /// Takes a field that changes nothing about an answer.
    pub(super) fn pass_over(&mut self, name: &str) {
        self.value(name);
    }

    /// Takes a field that can only say what is done anyway.
    pub(super) fn only(&mut self, name: &str, allowed: Only, problems: &mut Problems) {
        let Some(value) = self.value(name) else {
            return;
        };
        if let Some(rule) = allowed.rule_against(value) {
            problems.note(self.path_of(name), rule);
        }
    }

    /// Notes every field that nobody has taken.
    pub(super) fn finish(self, problems: &mut Problems) {
        for member in &self.members {
            problems.note(
                self.shown(&member.name),
                "is not supported here, and is not ignored: leave it out",
            );
        }
    }
}

/// The one value that a field may have.
#[derive(Debug, Clone, Copy)]
pub(super) enum Only {
    /// This number.
    Number(f64),
    /// This flag.
    Flag(bool),
    /// One of these texts.
    Words(&'static [&'static str]),
    /// A list, an object or a text with nothing in it.
    Nothing,
}

impl Only {
    /// The rule that a value is against; `None` where it says what is done anyway.
    fn rule_against(self, value: &RawValue) -> Option<String> {
        let (is_allowed, allowed) = match self {
            Self::Number(only) => {
                let number: Option<f64> = serde_json::from_str(value.get()).ok();
                (number == Some(only), only.to_string())
            }
            Self::Flag(only) => {
                let flag: Option<bool> = serde_json::from_str(value.get()).ok();
                (flag == Some(only), only.to_string())
            }
            Self::Words(words) => {
                let word = text(value);
                let known = word.is_some_and(|word| words.contains(&word.as_str()));
                (known, words.join(" or "))
            }
            Self::Nothing => {
                let is_empty = match kind(value) {
                    Kind::List => list(value, 0).is_some_and(|list| list.count == 0),
                    Kind::Object => {
                        let members: Result<Members<'_>, _> = serde_json::from_str(value.get());
                        members.is_ok_and(|Members(members)| members.is_empty())
                    }
                    Kind::Text => text(value).is_some_and(|text| text.is_empty()),
                    Kind::Null | Kind::Flag | Kind::Number => false,
                };
                (is_empty, "empty".to_owned())
            }
        };
        (!is_allowed).then(|| format!("is not supported here: leave it out, or say {allowed}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_of(body: &str, read: impl FnOnce(&mut Fields<'_>, &mut Problems)) -> Vec<(String, String)> {
        let mut problems = Problems::default();
        if let Some(mut fields) = Fields::of_body(body.as_bytes(), &mut problems) {
            read(&mut fields, &mut problems);
            fields.finish(&mut problems);
        }
        let found = problems.finish().err().unwrap_or_default().into_iter();
        found.map(|problem| (problem.param, problem.message)).collect()
    }

    #[test]
    fn fields_have_the_type_that_is_asked_for() {
        let body = r#"{"a": "x", "b": 0.5, "c": 7, "d": true, "e": null, "f": {"g": [1]}}"#;
        let found = problems_of(body, |fields, problems| {
            assert_eq!(fields.text("a", problems).as_deref(), Some("x"));
            assert_eq!(fields.number("b", problems), Some(0.5));
            assert_eq!(fields.whole("c", problems), Some(7));
            assert_eq!(fields.flag("d", problems), Some(true));
            assert_eq!(fields.text("e", problems), None);
            let mut inner = fields.object("f", problems).unwrap();
            let list = list(inner.value("g").unwrap(), 8).unwrap();
            assert_eq!((list.first.len(), list.count), (1, 1));
            inner.finish(problems);
        });
        assert_eq!(found, []);
    }

    #[test]
    fn every_problem_is_told_with_its_field_and_without_the_callers_text() {
        let body =
            r#"{"a": 3, "b": "secret", "c": -1, "d": "secret", "e": {"secret text": 1, "f": 1}, "g": 1}"#;
        let found = problems_of(body, |fields, problems| {
            assert_eq!(fields.text("a", problems), None);
            assert_eq!(fields.number("b", problems), None);
            assert_eq!(fields.whole("c", problems), None);
            assert_eq!(fields.flag("d", problems), None);
            fields.object("e", problems).unwrap().finish(problems);
        });
        let params: Vec<_> = found.iter().map(|(param, _)| param.as_str()).collect();
        assert_eq!(params, ["a", "b", "c", "d", "e.(a field)", "e.f", "g"]);
        assert!(!format!("{found:?}").contains("secret"), "{found:?}");
    }

    #[test]
    fn a_body_that_is_no_object_is_refused_with_the_place() {
        for (body, said) in [
            ("", "line 1, column 0"),
            ("{\"a\": }", "line 1, column 7"),
            ("{\"a\": 1} 2", "line 1, column 10"),
            ("[]", "must be an object"),
            ("null", "must be an object"),
        ] {
            let found = problems_of(body, |_, _| unreachable!("{body}"));
            assert_eq!(found.len(), 1, "{body}");
            assert!(found[0].1.contains(said), "{body}: {found:?}");
        }
        let not_utf8 = Fields::of_body(b"{\"a\": \"\xff\"}", &mut Problems::default());
        assert!(not_utf8.is_none());
    }

    #[test]
    fn a_field_that_is_there_twice_is_no_choice_of_ours() {
        let found = problems_of(r#"{"a": 1, "a": 2}"#, |fields, problems| {
            fields.whole("a", problems);
            fields.whole("a", problems);
        });
        assert_eq!(found, [("a".to_owned(), "is there twice".to_owned())]);
    }

    #[test]
    fn a_field_that_says_what_is_done_anyway_is_taken() {
        let all = |fields: &mut Fields<'_>, problems: &mut Problems| {
            fields.only("n", Only::Number(1.0), problems);
            fields.only("echo", Only::Flag(false), problems);
            fields.only("tier", Only::Words(&["auto", "default"]), problems);
            fields.only("tools", Only::Nothing, problems);
            fields.only("bias", Only::Nothing, problems);
        };
        let body = r#"{"n": 1, "echo": false, "tier": "auto", "tools": [], "bias": {}}"#;
        assert_eq!(problems_of(body, all), []);
        let body = r#"{"n": 2, "echo": true, "tier": "flex", "tools": [1], "bias": {"5": 1}}"#;
        let found = problems_of(body, all);
        let params: Vec<_> = found.iter().map(|(param, _)| param.as_str()).collect();
        assert_eq!(params, ["n", "echo", "tier", "tools", "bias"]);
        assert!(found[2].1.contains("auto or default"), "{found:?}");
    }

    #[test]
    fn a_list_is_counted_to_its_end_and_kept_as_far_as_wanted() {
        let value: &RawValue = serde_json::from_str("[1, [2], \"3\", {}]").unwrap();
        let two = list(value, 2).unwrap();
        assert_eq!((two.first.len(), two.count), (2, 4));
        let object: &RawValue = serde_json::from_str("{}").unwrap();
        assert!(list(object, 2).is_none());
    }
}
