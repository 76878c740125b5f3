//! The guards that are known, by the prompts that they were trained on, and which of them a model is.

use std::{fmt, path::Path, str::FromStr};

use crate::gguf::Gguf;

/// The prompt that a guard was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuardKind {
    /// Llama Guard 3 8B, with categories S1 to S14; the prompt is the same byte for byte, with its leading space.
    LlamaGuard3_8B,
    /// Llama Guard 3 1B, with categories S1 to S13.
    LlamaGuard3_1B,
    /// Llama Guard 2 8B, with categories S1 to S11.
    LlamaGuard2,
    /// Qwen3Guard-Gen of any size: safe, controversial or unsafe, nine categories, and whether an answer refuses.
    Qwen3GuardGen,
    /// Qwen3Guard-Stream of any size: heads for the same labels and categories at each token of a conversation, and no text.
    Qwen3GuardStream,
    /// WildGuard: whether a request is harmful, whether its answer refuses, and whether the answer is harmful.
    WildGuard,
    /// PolyGuard, on Qwen or Ministral: as WildGuard, with Llama Guard 3's categories.
    PolyGuard,
    /// Granite Guardian 3.0, 3.1 and 3.2: whether a message has one risk, harm unless a policy says another.
    GraniteGuardian3,
    /// ShieldGemma of any size: whether a message violates guidelines, the makers' four unless a policy says others.
    ShieldGemma,
    /// Llama Guard 3's task text as the user turn of the model's own chat template. It demonstrates the mechanism with models
    /// that were not trained as guards; its verdicts are not safety judgements.
    ChatDemo,
}

impl GuardKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::LlamaGuard3_8B,
        Self::LlamaGuard3_1B,
        Self::LlamaGuard2,
        Self::Qwen3GuardGen,
        Self::Qwen3GuardStream,
        Self::WildGuard,
        Self::PolyGuard,
        Self::GraniteGuardian3,
        Self::ShieldGemma,
        Self::ChatDemo,
    ];

    /// The name used in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::LlamaGuard3_8B => "llama-guard-3-8b",
            Self::LlamaGuard3_1B => "llama-guard-3-1b",
            Self::LlamaGuard2 => "llama-guard-2-8b",
            Self::Qwen3GuardGen => "qwen3guard-gen",
            Self::Qwen3GuardStream => "qwen3guard-stream",
            Self::WildGuard => "wildguard",
            Self::PolyGuard => "polyguard",
            Self::GraniteGuardian3 => "granite-guardian-3",
            Self::ShieldGemma => "shieldgemma",
            Self::ChatDemo => "chat-demo",
        }
    }

    /// The kind that a model is, by its chat template or else by one of its names. `None` if it is no guard that is known.
    pub fn detect(evidence: &GuardEvidence<'_>) -> Option<Self> {
        evidence
            .template
            .and_then(|template| by_template(template, evidence.layers))
            .or_else(|| {
                evidence
                    .names
                    .iter()
                    .find_map(|name| by_name(name, evidence.layers))
            })
    }

    /// The names of all kinds, for messages.
    pub fn known() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for GuardKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for GuardKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| {
            format!(
                "`{text}` is no guard that is known; the guards are {}",
                Self::known()
            )
        })
    }
}

/// What tells which guard a model is.
#[derive(Debug, Clone, Copy)]
pub struct GuardEvidence<'a> {
    /// Its chat template, where it has one.
    pub template: Option<&'a str>,
    /// What its files call it; see [`model_names`].
    pub names: &'a [String],
    /// Number of decoder layers; 0 where it is not known. It tells guards of one family apart.
    pub layers: usize,
}

/// What a model's files call it: `general.name` and `general.basename` of a GGUF file, and the name of the file or folder. The
/// folder of a hub's snapshot has a digest as its name, and the folder of the model is two above it.
pub fn model_names(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    if path.is_file()
        && let Ok(gguf) = Gguf::open(path)
    {
        let stored = ["general.name", "general.basename"];
        names.extend(
            stored
                .into_iter()
                .filter_map(|key| gguf.get_str(key))
                .map(str::to_owned),
        );
    }
    let is_snapshot = |folder: &&Path| folder.file_name().is_some_and(|name| name == "snapshots");
    let named = match path.parent().filter(is_snapshot).and_then(Path::parent) {
        Some(model) => model,
        None => path,
    };
    names.extend(named.file_name().map(|name| name.to_string_lossy().into_owned()));
    names
}

/// Llama Guard 3 8B has 32 layers, and 1B has 16, or 12 where it is pruned.
fn llama_guard_3(layers: usize) -> GuardKind {
    match layers {
        32 => GuardKind::LlamaGuard3_8B,
        _ => GuardKind::LlamaGuard3_1B,
    }
}

fn by_template(template: &str, layers: usize) -> Option<GuardKind> {
    let has = |text: &str| template.contains(text);
    if has("'Safety: Safe', 'Safety: Unsafe', 'Safety: Controversial'") {
        return Some(GuardKind::Qwen3GuardGen);
    }
    if has("<start_of_risk_definition>") && has("Your answer must be either") {
        return Some(GuardKind::GraniteGuardian3);
    }
    if has("You are a policy expert trying to help determine whether a user prompt") && has("guideline") {
        return Some(GuardKind::ShieldGemma);
    }
    let is_llama_guard = has("<BEGIN UNSAFE CONTENT CATEGORIES>") && has("'safe' or 'unsafe'");
    if !is_llama_guard || !has("according our safety policy") {
        return None;
    }
    // Llama Guard 1 has the same words, and other categories.
    match (has("[INST]"), has("S1: Violent Crimes")) {
        (true, is_second) => is_second.then_some(GuardKind::LlamaGuard2),
        (false, _) => Some(llama_guard_3(layers)),
    }
}

fn by_name(name: &str, layers: usize) -> Option<GuardKind> {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let plain: String = letters.map(|letter| letter.to_ascii_lowercase()).collect();
    let is = |text: &str| plain.contains(text);
    match () {
        () if is("llamaguard38b") => Some(GuardKind::LlamaGuard3_8B),
        () if is("llamaguard31b") => Some(GuardKind::LlamaGuard3_1B),
        // The vision model of 11B has other inputs.
        () if is("llamaguard3") && !is("llamaguard311b") => Some(llama_guard_3(layers)),
        () if is("llamaguard28b") => Some(GuardKind::LlamaGuard2),
        () if is("qwen3guardgen") => Some(GuardKind::Qwen3GuardGen),
        () if is("wildguard") => Some(GuardKind::WildGuard),
        () if is("polyguard") => Some(GuardKind::PolyGuard),
        // ShieldGemma 2 looks at images; its only size is 4B.
        () if ["2b", "9b", "27b"]
            .iter()
            .any(|size| is(&format!("shieldgemma{size}"))) =>
        {
            Some(GuardKind::ShieldGemma)
        }
        // 3.3 and later have another prompt.
        () if ["0", "1", "2"]
            .iter()
            .any(|minor| is(&format!("graniteguardian3{minor}"))) =>
        {
            Some(GuardKind::GraniteGuardian3)
        }
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_own_name_and_an_unknown_name_gets_the_list() {
        for kind in GuardKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        let error = "llama-guard".parse::<GuardKind>().unwrap_err();
        for kind in GuardKind::ALL {
            assert!(error.contains(kind.name()), "{error}");
        }
    }

    fn named(name: &str, layers: usize) -> Option<GuardKind> {
        GuardKind::detect(&GuardEvidence {
            template: None,
            names: &[name.to_owned()],
            layers,
        })
    }

    #[test]
    fn a_model_is_known_by_its_name() {
        for (name, layers, kind) in [
            ("Llama-Guard-3-8B.Q4_K_M.gguf", 0, GuardKind::LlamaGuard3_8B),
            ("Llama Guard 3 1B", 0, GuardKind::LlamaGuard3_1B),
            ("llama-guard3", 32, GuardKind::LlamaGuard3_8B),
            ("llama-guard3", 16, GuardKind::LlamaGuard3_1B),
            ("Meta-Llama-Guard-2-8B.Q4_K_M", 32, GuardKind::LlamaGuard2),
            ("models--Qwen--Qwen3Guard-Gen-0.6B", 28, GuardKind::Qwen3GuardGen),
            ("wildguard.Q8_0.gguf", 32, GuardKind::WildGuard),
            ("PolyGuard-Qwen-Smol", 24, GuardKind::PolyGuard),
            ("granite-guardian-3.1-2b", 40, GuardKind::GraniteGuardian3),
            ("shieldgemma-2b.Q8_0.gguf", 26, GuardKind::ShieldGemma),
            ("models--google--shieldgemma-27b", 46, GuardKind::ShieldGemma),
        ] {
            assert_eq!(named(name, layers), Some(kind), "{name}");
        }
        for other in [
            "Meta-Llama-3.1-8B-Instruct",
            "SmolLM2-135M-Instruct",
            "Llama-Guard-3-11B-Vision",
            "Qwen3Guard-Stream-4B",
            "LlamaGuard-7b",
            "Llama-Guard-4-12B",
            "Llama-Prompt-Guard-2-86M",
            "granite-guardian-3.3-8b",
            "shieldgemma-2-4b-it",
            "granite-3.1-2b-instruct",
        ] {
            assert_eq!(named(other, 32), None, "{other}");
        }
    }

    #[test]
    fn a_template_counts_more_than_a_name() {
        let template = "Task: ... according our safety policy ... <BEGIN UNSAFE CONTENT CATEGORIES> ... First line must \
                        read 'safe' or 'unsafe'.";
        let detect = |template, layers| {
            GuardKind::detect(&GuardEvidence {
                template: Some(template),
                names: &["wildguard".to_owned()],
                layers,
            })
        };
        assert_eq!(detect(template, 32), Some(GuardKind::LlamaGuard3_8B));
        assert_eq!(detect(template, 16), Some(GuardKind::LlamaGuard3_1B));
        let second = format!("[INST] {template} S1: Violent Crimes. [/INST]");
        assert_eq!(detect(&second, 32), Some(GuardKind::LlamaGuard2));
        let risks = "<start_of_risk_definition> ... Your answer must be either 'Yes' or 'No'.";
        assert_eq!(detect(risks, 40), Some(GuardKind::GraniteGuardian3));
        let guideline =
            "You are a policy expert trying to help determine whether a user prompt is ... {{ guideline }}";
        assert_eq!(detect(guideline, 26), Some(GuardKind::ShieldGemma));
        assert_eq!(detect("{{ messages }}", 32), Some(GuardKind::WildGuard));
    }

    #[test]
    fn a_snapshot_of_a_hub_has_the_name_of_its_model() {
        let names = |path: &str| model_names(Path::new(path));
        assert_eq!(
            names("/hub/models--Qwen--Qwen3Guard-Gen-4B/snapshots/0a1b"),
            ["models--Qwen--Qwen3Guard-Gen-4B"]
        );
        assert_eq!(names("/wildguard/smol.gguf"), ["smol.gguf"]);
    }
}
