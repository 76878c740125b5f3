//! Which files of a repository make a model that can be served: one GGUF file, or a folder of settings and safetensors. Nothing that
//! could be run is taken: no code, and no pickles.

use serde_json::Value;

use super::listing::{Sibling, is_inside};
use crate::memory::human_bytes;

/// Files of a folder that a model is read from, beside its weights.
const SETTINGS: [&str; 12] = [
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
];

pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Most files that a message lists.
const MAX_LISTED: usize = 60;

/// What the files of a model are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelForm {
    /// A GGUF file.
    Gguf,
    /// A folder with `config.json` and safetensors.
    Folder,
    /// A folder with a LoRA adapter as PEFT writes it.
    Adapter,
}

/// What is to be fetched of a repository first.
#[derive(Debug)]
pub(super) enum Choice {
    /// This file, and nothing else.
    Gguf(Sibling),
    /// These settings, and the weights that [`weights`] then finds.
    Folder { form: ModelForm, settings: Vec<Sibling> },
}

/// Chooses by what the caller named: a path, a pattern or a quantisation of a GGUF file. Without it, a folder with safetensors, or
/// else the only GGUF file.
///
/// # Errors
/// Says what there is to choose from.
pub(super) fn choose(siblings: &[Sibling], file: Option<&str>) -> Result<Choice, String> {
    let ggufs: Vec<&Sibling> = sorted(siblings, |name| ending(name) == "gguf");
    if let Some(file) = file {
        return one_gguf(&named(&ggufs, file), &ggufs, file).map(Choice::Gguf);
    }
    let settings = sorted(siblings, |name| SETTINGS.contains(&name));
    let has = |name: &str| siblings.iter().any(|sibling| sibling.rfilename == name);
    let form = match () {
        () if has("config.json") && (has(INDEX) || has("model.safetensors")) => Some(ModelForm::Folder),
        () if has("adapter_config.json") && has("adapter_model.safetensors") => Some(ModelForm::Adapter),
        () => None,
    };
    if let Some(form) = form {
        let settings = settings.into_iter().cloned().collect();
        return Ok(Choice::Folder { form, settings });
    }
    let models: Vec<_> = ggufs.iter().copied().filter(|gguf| is_model(gguf)).collect();
    match models.as_slice() {
        [] => Err(nothing(siblings)),
        [one] => whole(one).map(Choice::Gguf),
        _ => Err(format!(
            "it has several GGUF files; name one as OWNER/NAME:FILE, or by its quantisation as OWNER/NAME:Q4_K_M:\n{}",
            listed(&models)
        )),
    }
}

/// The weights of a folder: those that its index names, or else its only file.
///
/// # Errors
/// When the repository lacks one, or the hub states no digest of one: nothing would tell whether it is what its makers wrote.
pub(super) fn weights(
    siblings: &[Sibling],
    form: ModelForm,
    index: Option<&[u8]>,
) -> Result<Vec<Sibling>, String> {
    let names = match (form, index) {
        (ModelForm::Adapter, _) => vec!["adapter_model.safetensors".to_owned()],
        (_, Some(index)) => shards(index)?,
        (_, None) => vec!["model.safetensors".to_owned()],
    };
    let find = |name: &String| {
        let found = siblings.iter().find(|sibling| sibling.rfilename == *name);
        let found = found.ok_or_else(|| format!("it lacks {name}, which its {INDEX} names"))?;
        with_digest(found)
    };
    names.iter().map(find).collect()
}

/// The files that an index of safetensors names, which lie beside it.
fn shards(index: &[u8]) -> Result<Vec<String>, String> {
    let index: Value = serde_json::from_slice(index).map_err(|error| format!("{INDEX}: {error}"))?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| format!("{INDEX} has no weight_map"))?;
    let mut names = Vec::new();
    for file in map.values() {
        let name = file.as_str().unwrap_or_default();
        if !is_inside(name) || name.contains('/') || ending(name) != "safetensors" {
            return Err(format!("{INDEX} names a file that is no safetensors beside it"));
        }
        names.push(name.to_owned());
    }
    names.sort_unstable();
    names.dedup();
    match names.is_empty() {
        true => Err(format!("{INDEX} names no file")),
        false => Ok(names),
    }
}

fn with_digest(sibling: &Sibling) -> Result<Sibling, String> {
    match &sibling.lfs {
        Some(_) => Ok(sibling.clone()),
        None => Err(format!("the hub states no digest of {}", sibling.rfilename)),
    }
}

/// The files of a kind by name, without those whose names lead elsewhere.
fn sorted(siblings: &[Sibling], takes: impl Fn(&str) -> bool) -> Vec<&Sibling> {
    let fits = |sibling: &&Sibling| is_inside(&sibling.rfilename) && takes(&sibling.rfilename);
    let mut found: Vec<_> = siblings.iter().filter(fits).collect();
    found.sort_by(|a, b| a.rfilename.cmp(&b.rfilename));
    found
}

fn ending(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, ending)| ending)
}

fn base(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Whether a GGUF file is a model, and not the eyes of one or what it was quantised by.
fn is_model(sibling: &Sibling) -> bool {
    let name = base(&sibling.rfilename).to_ascii_lowercase();
    !name.contains("mmproj") && !name.contains("imatrix")
}

/// The GGUF files that a name fits: the path, or else the pattern, or else the quantisation.
fn named<'a>(ggufs: &[&'a Sibling], file: &str) -> Vec<&'a Sibling> {
    if let Some(exact) = ggufs.iter().find(|gguf| gguf.rfilename == file) {
        return vec![exact];
    }
    let fits = |gguf: &&&Sibling| {
        let name = gguf.rfilename.as_str();
        match file.contains(['*', '?']) {
            true => matches_pattern(file, name) || matches_pattern(file, base(name)),
            false => is_model(gguf) && (base(name) == file || has_quantisation(base(name), file)),
        }
    };
    ggufs.iter().filter(fits).copied().collect()
}

/// Whether the name of a file has this quantisation as a whole part: `Q4_K` is no part of `model-Q4_K_M.gguf`.
fn has_quantisation(name: &str, quantisation: &str) -> bool {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let (stem, wanted) = (stem.to_ascii_lowercase(), quantisation.to_ascii_lowercase());
    stem.match_indices(&wanted).any(|(start, _)| {
        let before = stem[..start].chars().next_back();
        let after = stem[start + wanted.len()..].chars().next();
        before.is_none_or(|c| matches!(c, '-' | '.')) && after.is_none_or(|c| matches!(c, '-' | '.'))
    })
}

/// Whether a text fits a pattern in which `*` stands for any characters and `?` for one.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last star is, and the first character that it does not cover yet.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match (pattern.get(p), star) {
            (Some('*'), _) => {
                star = Some((p, t));
                p += 1;
            }
            (Some(c), _) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            (_, Some((at, covered))) => {
                star = Some((at, covered + 1));
                p = at + 1;
                t = covered + 1;
            }
            (_, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The only one of the found files.
fn one_gguf(found: &[&Sibling], all: &[&Sibling], file: &str) -> Result<Sibling, String> {
    match found {
        [one] => whole(one),
        [] if all.is_empty() => Err(format!(
            "it has no GGUF file, and {file} names one; leave :{file} out for a folder with safetensors"
        )),
        [] => Err(format!("no GGUF file is {file}; there are\n{}", listed(all))),
        [first, ..] if part_of(&first.rfilename).is_some() => whole(first),
        _ => Err(format!(
            "several GGUF files are {file}; name one by its whole name:\n{}",
            listed(found)
        )),
    }
}

/// The file, if it is the whole model.
fn whole(sibling: &Sibling) -> Result<Sibling, String> {
    match part_of(&sibling.rfilename) {
        Some(parts) => Err(format!(
            "{} is one of {parts} parts of a model, and GGUF files in parts cannot be read: choose another file, or fetch the \
             parts by the hub's own tools and join them with `llama-gguf-split --merge`",
            sibling.rfilename
        )),
        None => with_digest(sibling),
    }
}

/// How many parts there are, if the file is one of several: llama.cpp calls them `NAME-00001-of-00003.gguf`.
fn part_of(name: &str) -> Option<&str> {
    let stem = name.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (_, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(count) && digits(number)).then(|| count.trim_start_matches('0'))
}

/// Files with their sizes, one on each line.
fn listed(files: &[&Sibling]) -> String {
    let line = |file: &&Sibling| {
        let size = file.size.map_or("size not stated".to_owned(), human_bytes);
        format!("  {}  {size}", file.rfilename)
    };
    let mut lines: Vec<_> = files.iter().take(MAX_LISTED).map(line).collect();
    if files.len() > MAX_LISTED {
        lines.push(format!("  and {} more", files.len() - MAX_LISTED));
    }
    lines.join("\n")
}

/// Why a repository has no model that can be served.
fn nothing(siblings: &[Sibling]) -> String {
    let has = |endings: &[&str]| {
        let mut names = siblings.iter().map(|sibling| ending(&sibling.rfilename));
        names.any(|found| endings.contains(&found))
    };
    let lacks = "it has neither a GGUF file nor a folder with config.json and safetensors";
    match has(&["bin", "pt", "pth", "ckpt", "pkl"]) {
        true => {
            format!("{lacks}; files in which PyTorch keeps Python objects can run code, and are not taken")
        }
        false => lacks.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::listing::Lfs;

    fn siblings(names: &[&str]) -> Vec<Sibling> {
        let sibling = |name: &&str| Sibling {
            rfilename: (*name).to_owned(),
            size: Some(3 << 20),
            blob: None,
            lfs: Some(Lfs {
                sha256: "00".repeat(32),
            }),
        };
        names.iter().map(sibling).collect()
    }

    /// What is chosen: the GGUF file, or the settings and weights of a folder without an index.
    fn chosen(names: &[&str], file: Option<&str>) -> Result<Vec<String>, String> {
        let all = siblings(names);
        let files = match choose(&all, file)? {
            Choice::Gguf(gguf) => vec![gguf],
            Choice::Folder { form, settings } => [settings, weights(&all, form, None)?].concat(),
        };
        Ok(files.into_iter().map(|file| file.rfilename).collect())
    }

    const QUANTS: [&str; 7] = [
        "README.md",
        "m-BF16.gguf",
        "m-IQ4_XS.gguf",
        "m-Q4_K.gguf",
        "m-Q4_K_M.gguf",
        "m.Q8_0.gguf",
        "mmproj-m-F16.gguf",
    ];

    #[test]
    fn a_file_is_known_by_its_name_a_pattern_or_its_quantisation() {
        for (file, expected) in [
            ("m-Q4_K.gguf", "m-Q4_K.gguf"),
            ("Q4_K", "m-Q4_K.gguf"),
            ("q4_k_m", "m-Q4_K_M.gguf"),
            ("Q8_0", "m.Q8_0.gguf"),
            ("bf16", "m-BF16.gguf"),
            ("*K_M*", "m-Q4_K_M.gguf"),
            ("m-??16.gguf", "m-BF16.gguf"),
            ("mmproj-m-F16.gguf", "mmproj-m-F16.gguf"),
        ] {
            assert_eq!(chosen(&QUANTS, Some(file)).unwrap(), [expected], "{file}");
        }
        let in_folders = ["Q4_0/m-Q4_0.gguf", "Q8_0/m-Q8_0.gguf"];
        assert_eq!(chosen(&in_folders, Some("q8_0")).unwrap(), [in_folders[1]]);
        assert_eq!(chosen(&in_folders, Some("m-Q4_0.gguf")).unwrap(), [in_folders[0]]);
        assert_eq!(chosen(&in_folders, Some("Q4_0/*")).unwrap(), [in_folders[0]]);
    }

    #[test]
    fn what_is_not_one_file_gets_the_list_with_sizes() {
        for (file, problem) in [
            (None, "several GGUF files"),
            (Some("*Q4*"), "several GGUF files are *Q4*"),
            (Some("Q5_0"), "no GGUF file is Q5_0"),
            (Some("XS"), "no GGUF file is XS"),
        ] {
            let error = chosen(&QUANTS, file).unwrap_err();
            assert!(error.contains(problem), "{file:?}: {error}");
            assert!(error.contains("m-Q4_K_M.gguf  3.0 MiB"), "{file:?}: {error}");
        }
        let one = ["only.gguf", "mmproj-only.gguf", "config.json"];
        assert_eq!(chosen(&one, None).unwrap(), ["only.gguf"]);
        let many: Vec<String> = (0..1000).map(|number| format!("{number}.gguf")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let error = chosen(&many, None).unwrap_err();
        assert!(error.ends_with("  and 940 more"), "{error}");
    }

    #[test]
    fn parts_of_a_gguf_are_refused_and_say_what_helps() {
        let parts = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"];
        for file in ["Q8_0", parts[1], "*00001*"] {
            let error = chosen(&parts, Some(file)).unwrap_err();
            assert!(
                error.contains("one of 2 parts") && error.contains("--merge"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_folder_is_settings_and_safetensors_and_nothing_that_could_run() {
        let files = [
            "model.safetensors",
            "config.json",
            "tokenizer.json",
            "chat_template.jinja",
            "modeling.py",
            "pytorch_model.bin",
            "consolidated.safetensors",
            "onnx/model.safetensors",
            "../config.json",
            "m.gguf",
        ];
        let expected = [
            "chat_template.jinja",
            "config.json",
            "tokenizer.json",
            "model.safetensors",
        ];
        assert_eq!(chosen(&files, None).unwrap(), expected);
        let adapter = ["README.md", "adapter_config.json", "adapter_model.safetensors"];
        assert_eq!(chosen(&adapter, None).unwrap(), adapter[1..]);
        let pickle = chosen(&["config.json", "pytorch_model.bin"], None).unwrap_err();
        assert!(pickle.contains("can run code"), "{pickle}");
        let named = chosen(&files[..2], Some("Q4_0")).unwrap_err();
        assert!(named.contains("leave :Q4_0 out"), "{named}");
        assert!(chosen(&["../m.gguf", "/m.gguf"], None).is_err());
    }

    #[test]
    fn the_shards_of_a_folder_are_those_of_its_index() {
        let all = siblings(&["a-1-of-2.safetensors", "a-2-of-2.safetensors", "b.safetensors"]);
        let names = |index: &str| -> Result<Vec<String>, String> {
            let found = weights(&all, ModelForm::Folder, Some(index.as_bytes()))?;
            Ok(found.into_iter().map(|file| file.rfilename).collect())
        };
        let index = r#"{"weight_map": {"x": "a-2-of-2.safetensors", "y": "a-1-of-2.safetensors", "z": "a-2-of-2.safetensors"}}"#;
        assert_eq!(
            names(index).unwrap(),
            ["a-1-of-2.safetensors", "a-2-of-2.safetensors"]
        );
        for (wrong, problem) in [
            (r#"{"weight_map": {"x": "c.safetensors"}}"#, "lacks c.safetensors"),
            (r#"{"weight_map": {"x": "../b.safetensors"}}"#, "beside it"),
            (r#"{"weight_map": {"x": "b.bin"}}"#, "beside it"),
            (r#"{"weight_map": {"x": 7}}"#, "beside it"),
            (r#"{"weight_map": {}}"#, "names no file"),
            ("{}", "no weight_map"),
            ("weights", "index.json"),
        ] {
            let error = names(wrong).unwrap_err();
            assert!(error.contains(problem), "{wrong}: {error}");
        }
    }

    #[test]
    fn weights_without_a_digest_are_not_taken() {
        let mut all = siblings(&["config.json", "m.gguf", "model.safetensors"]);
        for sibling in &mut all {
            sibling.lfs = None;
        }
        let error = choose(&all, Some("m.gguf")).unwrap_err();
        assert!(error.contains("no digest of m.gguf"), "{error}");
        let error = weights(&all, ModelForm::Folder, None).unwrap_err();
        assert!(error.contains("no digest of model.safetensors"), "{error}");
    }

    #[test]
    fn stars_cover_anything_and_question_marks_one_character() {
        for (pattern, text) in [
            ("*", ""),
            ("a*c", "abbc"),
            ("*b*", "abc"),
            ("a?c", "abc"),
            ("**a", "ba"),
        ] {
            assert!(matches_pattern(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", ""), ("a*c", "abd"), ("?", ""), ("a?", "a"), ("", "a")] {
            assert!(!matches_pattern(pattern, text), "{pattern} {text}");
        }
    }
}
