//! A language model without weights: what it says is written in its prompt. Its KV cache holds the tokens
//! themselves, so it sees exactly what the engine has written to a sequence's blocks.
//!
//! As a target it looks for markers in its prompt: `[say X]` says X without any `[cut]` in it and ends, so that it can say a
//! marker which is not in its prompt; `[mute]` ends at once; anything else gets endless pseudo-random words. As a guard it looks at the conversation: `[unsafe]` is unsafe in S1
//! and S9, `[odd]` is neither, the rest is safe. In both roles `[nan]`, `[device]` and `[panic]` break it.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::sync::{Arc, Condvar, Mutex};

use babelward::{
    backend::{ForwardBatch, LanguageModel, ModelLimits, Readout, StepError, StepOutput, read_row},
    text::Tokenizer,
};

/// The guards' most and second most likely verdicts differ by this much.
pub const VERDICT_GAP: f64 = 2.0;
const CERTAIN: f32 = 20.0;
const NEVER: f32 = -20.0;

/// Holds back the model's forward passes, so that a test decides what is in flight.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    closed: bool,
    blocked: bool,
    passes: usize,
    tokens: usize,
}

impl Gate {
    pub fn close(&self) {
        self.0.0.lock().unwrap().closed = true;
    }

    pub fn open(&self) {
        self.0.0.lock().unwrap().closed = false;
        self.0.1.notify_all();
    }

    /// Whether a forward pass is held back now.
    pub fn is_blocked(&self) -> bool {
        self.0.0.lock().unwrap().blocked
    }

    /// Forward passes so far.
    pub fn passes(&self) -> usize {
        self.0.0.lock().unwrap().passes
    }

    /// New tokens in the forward passes so far.
    pub fn tokens(&self) -> usize {
        self.0.0.lock().unwrap().tokens
    }

    /// Waits until the gate is open.
    pub fn pass(&self) {
        self.pass_with(0);
    }

    /// Waits until the gate is open; then a forward pass over so many new tokens begins.
    pub fn pass_with(&self, tokens: usize) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        while state.closed {
            state.blocked = true;
            state = changed.wait(state).unwrap();
        }
        state.blocked = false;
        state.passes += 1;
        state.tokens += tokens;
    }
}

/// The answers of a guard.
#[derive(Clone, Copy)]
enum AnswerForm {
    Llama,
    Qwen3,
    Wild,
    Poly,
}

impl AnswerForm {
    /// That of the guard with this prompt, if it is a guard's.
    fn of(prompt: &str) -> Option<Self> {
        if prompt.contains("'Safety: Controversial'") {
            Some(Self::Qwen3)
        } else if prompt.contains("Human user:\n") {
            Some(match prompt.contains("identify the policies violated") {
                true => Self::Poly,
                false => Self::Wild,
            })
        } else {
            prompt.contains("<BEGIN CONVERSATION>").then_some(Self::Llama)
        }
    }

    fn before_conversation(self) -> &'static str {
        match self {
            Self::Llama | Self::Qwen3 => "<BEGIN CONVERSATION>",
            Self::Wild | Self::Poly => "Human user:",
        }
    }

    /// What the prompt has of the answer.
    fn begun(self) -> &'static str {
        match self {
            Self::Llama => "",
            Self::Qwen3 => "<think>\n\n</think>\n\nSafety:",
            Self::Wild | Self::Poly => "Harmful request:",
        }
    }

    fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Llama => &["safe", "unsafe"],
            Self::Qwen3 => &[" Safe", " Unsafe", " Controversial"],
            Self::Wild | Self::Poly => &[" yes", " no"],
        }
    }

    /// Whether a label is the next word.
    fn is_before_label(self, written: &[u8]) -> bool {
        written.is_empty() || matches!(self, Self::Wild | Self::Poly) && written.ends_with(b":")
    }

    /// The rest of the answer about a conversation.
    fn answer(self, judged: &str) -> &'static str {
        let has = |marker: &str| judged.contains(marker);
        match self {
            _ if has("[odd]") => match self {
                Self::Llama => "perhaps",
                Self::Qwen3 | Self::Wild | Self::Poly => " perhaps",
            },
            Self::Llama if has("[unsafe]") => "unsafe\nS1,S9",
            Self::Llama => "safe",
            Self::Qwen3 if has("[unsafe]") => " Unsafe\nCategories: Violent, PII\nRefusal: No\n",
            Self::Qwen3 if has("[controversial]") => {
                " Controversial\nCategories: Unethical Acts\nRefusal: No\n"
            }
            Self::Qwen3 => " Safe\nCategories: None\nRefusal: Yes\n",
            Self::Wild if has("[unsafe]") => " yes\nResponse refusal: no\nHarmful response: yes\n",
            Self::Wild => " no\nResponse refusal: yes\nHarmful response: no\n",
            Self::Poly if has("[unsafe]") => {
                " yes\nRequest safety violations: S1\nResponse refusal: no\nHarmful response: yes\n\
                 Response safety violations: S1,S9\n"
            }
            Self::Poly => {
                " no\nRequest safety violations: None\nResponse refusal: yes\nHarmful response: no\n\
                 Response safety violations: None\n"
            }
        }
    }
}

pub struct Scripted {
    limits: ModelLimits,
    tokenizer: Arc<Tokenizer>,
    gate: Gate,
    kv: Vec<u32>,
    /// What the step under way has read.
    output: Option<StepOutput>,
}

impl Scripted {
    pub fn new(tokenizer: Arc<Tokenizer>, context_length: usize, num_blocks: usize, gate: Gate) -> Self {
        let limits = ModelLimits {
            vocab_size: tokenizer.vocab_size(),
            context_length,
            block_size: 16,
            num_blocks,
            window: None,
        };
        Self {
            kv: vec![u32::MAX; limits.block_size * limits.num_blocks],
            limits,
            tokenizer,
            gate,
            output: None,
        }
    }

    /// Logits of the next token.
    fn row(&self, history: &[u32], row: &mut [f32]) -> Result<(), StepError> {
        // Bytes, because a token may be half of a code point.
        let bytes = |tokens: &[u32]| -> Vec<u8> {
            tokens
                .iter()
                .flat_map(|token| self.tokenizer.token_bytes(*token).iter().copied())
                .collect()
        };
        let header = self.tokenizer.special_id("<|im_start|>").unwrap();
        // WildGuard's prompt has no turns. Its last token, which has no bytes, stands before its last line.
        let last_of_prompt = self.tokenizer.special_id("[/INST]");
        let turn = history
            .iter()
            .rposition(|token| *token == header || Some(*token) == last_of_prompt);
        let (prompt, written) = match turn {
            Some(turn) => (bytes(&history[..turn]), bytes(&history[turn..])),
            // Raw text: what is said comes after the marker.
            None => {
                let mut prompt = bytes(history);
                let end = prompt
                    .iter()
                    .rposition(|byte| *byte == b']')
                    .map_or(prompt.len(), |end| end + 1);
                let written = prompt.split_off(end);
                (prompt, written)
            }
        };
        let prompt = String::from_utf8_lossy(&prompt);
        let written = written
            .strip_prefix(b"assistant")
            .unwrap_or(&written)
            .trim_ascii_start();
        let written = written.strip_prefix(b"[/INST]\n").unwrap_or(written);
        let written = written.strip_prefix(b"<|assistant|>\n").unwrap_or(written);
        let form = AnswerForm::of(&prompt);
        let judged = form.and_then(|form| prompt.rsplit_once(form.before_conversation()));
        let judged = judged.map(|(_, judged)| judged);
        let input = judged.unwrap_or(&prompt);
        if input.contains("[panic]") {
            panic!("the script says so");
        } else if input.contains("[device]") {
            return Err(StepError::Device("the script says so".to_owned()));
        } else if input.contains("[nan]") {
            row.fill(f32::NAN);
            return Ok(());
        }
        row.fill(NEVER);
        if let (Some(form), Some(judged)) = (form, judged) {
            let begun = form.begun().as_bytes();
            let written = written.strip_prefix(begun).unwrap_or(written);
            let second = if judged.contains("[odd]") {
                CERTAIN - 10.0
            } else {
                CERTAIN - VERDICT_GAP as f32
            };
            if form.is_before_label(written) {
                for word in form.labels() {
                    row[self.tokenizer.encode_plain(word).unwrap()[0] as usize] = second;
                }
            }
            self.say(form.answer(judged), written, row);
        } else if input.contains("[mute]") {
            self.say("", written, row);
        } else if let Some((_, said)) = input.split_once("[say ") {
            let end = said.rfind(']').unwrap();
            self.say(&said[..end].replace("[cut]", ""), written, row);
        } else {
            babble(history, row);
        }
        Ok(())
    }

    /// The token after what is written of a text, or its end.
    fn say(&self, text: &str, written: &[u8], row: &mut [f32]) {
        let tokens = self.tokenizer.encode_plain(text).unwrap();
        let mut said = Vec::new();
        let mut at = None;
        for token in tokens {
            if said == written {
                at = Some(token);
                break;
            }
            said.extend_from_slice(self.tokenizer.token_bytes(token));
        }
        let next = at.unwrap_or(self.tokenizer.end_tokens()[0]);
        row[next as usize] = CERTAIN;
    }
}

/// A distribution over two thousand words that depends on everything before.
fn babble(history: &[u32], row: &mut [f32]) {
    let mix = |state: u64, value: u64| {
        (state ^ value)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    };
    let state = history
        .iter()
        .fold(7, |state, token| mix(state, u64::from(*token)));
    for (index, logit) in row[1000..3000].iter_mut().enumerate() {
        *logit = (mix(mix(state, index as u64), 1) >> 40) as f32 / (1u64 << 22) as f32;
    }
}

impl LanguageModel for Scripted {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn submit(&mut self, batch: &ForwardBatch, mut output: StepOutput) -> Result<(), StepError> {
        self.gate.pass_with(batch.tokens.len());
        output.clear();
        let block_size = self.limits.block_size;
        let mut tokens = batch.tokens.iter();
        for sequence in &batch.sequences {
            let slot = |position: usize| {
                sequence.block_table[position / block_size] as usize * block_size + position % block_size
            };
            let total = sequence.context + sequence.new_tokens;
            for position in sequence.context..total {
                self.kv[slot(position)] = *tokens.next().unwrap();
            }
            if sequence.readout != Readout::None {
                let history: Vec<u32> = (0..total).map(|position| self.kv[slot(position)]).collect();
                let start = output.logits.len();
                output.logits.resize(start + self.limits.vocab_size, 0.0);
                self.row(&history, &mut output.logits[start..])?;
                let row = start / self.limits.vocab_size;
                output
                    .readings
                    .extend(read_row(&sequence.readout, row, &output.logits[start..]));
            }
        }
        self.output = Some(output);
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOutput, StepError> {
        self.output.take().ok_or(StepError::NotSubmitted)
    }
}
