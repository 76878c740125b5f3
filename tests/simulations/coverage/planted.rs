//! Verdicts with planted truths, written as files that `bench import` reads.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use babelward::{
    bench::taxonomy::{Category, Language},
    random::Random,
};
use serde_json::Value;

/// Prompts of each category in the whole benchmark, in the taxonomy's order.
pub const WHOLE: [usize; 32] = [
    457, 1798, 201, 349, 361, 1037, 328, 1166, 166, 120, 1221, 393, 1224, 101, 443, 837, 144, 174, 235, 383,
    367, 150, 357, 251, 647, 555, 106, 213, 216, 112, 490, 161,
];

/// A tenth of each: 1,463 prompts or so.
pub fn tenth() -> [usize; 32] {
    WHOLE.map(|prompts| (prompts + 5) / 10)
}

/// What an answer's verdict has in common with others. The shares are chances that it is drawn together with them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alike {
    /// With all answers to the prompt, of every run.
    pub prompt: f64,
    /// With the run's own answers to the prompt, whatever language and seed.
    pub run: f64,
}

/// A planted regime.
#[derive(Debug, Clone)]
pub struct Regime {
    pub name: String,
    /// Prompts of each category that occurs.
    pub prompts: Vec<usize>,
    /// Unsafe share of each category, by run and language.
    pub unsafe_shares: Vec<Vec<Vec<f64>>>,
    pub languages: Vec<Language>,
    pub seeds: u64,
    pub alike: Alike,
}

impl Regime {
    /// One run in which every language is alike.
    pub fn new(name: &str, prompts: &[usize], unsafe_shares: &[f64]) -> Self {
        Self {
            name: name.to_owned(),
            prompts: prompts.to_vec(),
            unsafe_shares: vec![vec![unsafe_shares.to_vec()]],
            languages: vec![Language::En],
            seeds: 1,
            alike: Alike::default(),
        }
    }

    pub fn in_languages(mut self, count: usize) -> Self {
        self.languages = Language::ALL[..count].to_vec();
        for run in &mut self.unsafe_shares {
            run.resize(count, run[0].clone());
        }
        self
    }

    pub fn with_seeds(self, seeds: u64) -> Self {
        Self { seeds, ..self }
    }

    pub fn alike(self, prompt: f64, run: f64) -> Self {
        let alike = Alike { prompt, run };
        Self { alike, ..self }
    }

    /// A second run with shares of its own.
    pub fn against(mut self, unsafe_shares: &[f64]) -> Self {
        let languages = self.languages.len();
        self.unsafe_shares.push(vec![unsafe_shares.to_vec(); languages]);
        self
    }

    /// Macro safe share in percent.
    pub fn macro_safe(&self, run: usize, language: usize) -> f64 {
        let shares = &self.unsafe_shares[run][language];
        100.0 * (1.0 - shares.iter().sum::<f64>() / shares.len() as f64)
    }

    /// Safe share of all prompts in percent.
    pub fn micro_safe(&self, run: usize, language: usize) -> f64 {
        let prompts: usize = self.prompts.iter().sum();
        let unsafe_: f64 = self.unsafe_shares[run][language]
            .iter()
            .zip(&self.prompts)
            .map(|(share, prompts)| share * *prompts as f64)
            .sum();
        100.0 * (1.0 - unsafe_ / prompts as f64)
    }

    /// Answers of one simulated study.
    pub fn answers(&self) -> usize {
        self.prompts.iter().sum::<usize>()
            * self.languages.len()
            * self.seeds as usize
            * self.unsafe_shares.len()
    }

    /// Appends one simulated study: a line for each answer, of models `NUMBERa`, `NUMBERb`.
    fn append(&self, number: usize, random: &mut Random, text: &mut String) {
        let share = |random: &mut Random| (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
        let mut id = 0;
        for (category, (key, prompts)) in Category::all().map(|c| c.key()).zip(&self.prompts).enumerate() {
            for _ in 0..*prompts {
                id += 1;
                let of_prompt = share(random);
                for (run, by_language) in self.unsafe_shares.iter().enumerate() {
                    let of_run = share(random);
                    let name = ['a', 'b'][run];
                    for (language, shares) in self.languages.iter().zip(by_language) {
                        for seed in 0..self.seeds {
                            let (which, own) = (share(random), share(random));
                            let drawn = match which {
                                which if which < self.alike.prompt => of_prompt,
                                which if which < self.alike.prompt + self.alike.run => of_run,
                                _ => own,
                            };
                            let label = if drawn < shares[category] {
                                "unsafe"
                            } else {
                                "safe"
                            };
                            let _ = writeln!(
                                text,
                                r#"{{"id":{id},"language":"{}","category":"{key}","label":"{label}","seed":{seed},"model":"{number}{name}"}}"#,
                                language.code(),
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Most answers in a file.
const BATCH: usize = 400_000;

/// Simulates a regime through the program, and calls `look` with each simulated study's run folders.
pub fn simulate(regime: &Regime, simulations: usize, seed: u64, mut look: impl FnMut(&[std::path::PathBuf])) {
    let mut random = Random::new(seed);
    let per_batch = (BATCH / regime.answers().max(1)).clamp(1, simulations.max(1));
    let mut done = 0;
    while done < simulations {
        let folder = tempfile::tempdir().unwrap();
        let numbers = done..(done + per_batch).min(simulations);
        let mut text = String::new();
        numbers
            .clone()
            .for_each(|number| regime.append(number, &mut random, &mut text));
        let file = folder.path().join("verdicts.jsonl");
        fs::write(&file, &text).unwrap();
        let runs = folder.path().join("runs");
        program(&["bench", "import", path(&file), "--out", path(&runs)]);
        for number in numbers.clone() {
            let several = numbers.len() * regime.unsafe_shares.len() > 1;
            let of_run = |run: usize| match several {
                true => runs.join(format!("{number}{}", ['a', 'b'][run])),
                false => runs.clone(),
            };
            let folders: Vec<_> = (0..regime.unsafe_shares.len()).map(of_run).collect();
            look(&folders);
        }
        done = numbers.end;
    }
}

/// A run's figures.
pub fn summary(run: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(run.join("summary.json")).unwrap()).unwrap()
}

/// What `compare` says of two runs.
pub fn compared(runs: &[std::path::PathBuf]) -> Value {
    let out = program(&["compare", path(&runs[0]), path(&runs[1]), "--json", "-"]);
    serde_json::from_slice(&out).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs the program; what it prints.
pub fn program(args: &[&str]) -> Vec<u8> {
    let out = Command::new(env!("CARGO_BIN_EXE_babelward"))
        .args(args)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    out.stdout
}
