//! Tests of every kernel on the card itself: each computes made-up inputs, which are the same in every run, and the host
//! computes what the results must be. What a kernel promises to the bit is compared to the bit, everything else within what
//! its arithmetic allows. All of it takes seconds, most of which is compiling kernels that were never compiled before.

mod attention;
mod cases;
mod elementwise;
mod inputs;
mod logits;
mod low_rank;
mod noise;
mod norms;
mod packed;
mod products;
mod rope;
mod rows;
mod runner;
mod top_logits;

use std::fmt;

use self::{cases::Cases, runner::Runner};
use super::{
    driver::{Card, DriverError},
    kernels::Kernel,
};
use crate::backend::{DeviceFinding, FindingStatus};

/// What is tested together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelTest {
    /// One kernel.
    One(Kernel),
    /// The kernels of attention for heads of one size.
    Attention {
        /// Dimensions of a head.
        head: u32,
    },
    /// Products, which are cuBLASLt's.
    Products,
    /// Launches that are recorded and carried out again.
    Recording,
}

/// Head sizes that are tested: those of models, and for each way in which tiles lie in shared memory one small size. Kernels
/// are compiled for each by itself.
pub const HEADS: [u32; 9] = [16, 32, 48, 64, 80, 96, 112, 128, 256];

impl KernelTest {
    /// All tests.
    pub fn all() -> Vec<Self> {
        let single = [
            Kernel::Embed,
            Kernel::NormRows,
            Kernel::NormHeads,
            Kernel::RopeStore,
            Kernel::Gate,
            Kernel::Activate,
            Kernel::AddBias,
            Kernel::RoundRows,
            Kernel::KeepRows,
            Kernel::LowRankDown,
            Kernel::LowRankUp,
            Kernel::ReadLogits,
            Kernel::TopLogits,
            Kernel::PackedProduct8,
            Kernel::PackedProduct4,
            Kernel::PackedExpand8,
            Kernel::PackedExpand4,
            Kernel::FillNoise,
        ];
        let attention = HEADS.map(|head| Self::Attention { head });
        let tests = single.map(Self::One).into_iter().chain(attention);
        tests.chain([Self::Products, Self::Recording]).collect()
    }

    /// The kernels that it launches.
    pub fn kernels(self) -> Vec<Kernel> {
        match self {
            Self::One(kernel) => vec![kernel],
            Self::Attention { head } => attention::kernels(head),
            Self::Products => Vec::new(),
            Self::Recording => vec![Kernel::AddBias],
        }
    }

    /// Tests them on a card.
    pub fn run(self, card: &dyn Card) -> DeviceFinding {
        let unusable = || FindingStatus::Unusable { fix: FIX.to_owned() };
        let (found, status) = match self.compared(card) {
            Ok(cases) => match cases.failure() {
                None => (cases.summary(), FindingStatus::Ok),
                Some(failure) => (failure, unusable()),
            },
            Err(error) => (error.to_string(), unusable()),
        };
        DeviceFinding {
            subject: self.to_string(),
            found,
            status,
        }
    }

    fn compared(self, card: &dyn Card) -> Result<Cases, DriverError> {
        let mut runner = Runner::new(card.open_queue()?, &self.kernels())?;
        let mut cases = Cases::default();
        match self {
            Self::One(kernel) => compare_one(kernel, &mut runner, &mut cases),
            Self::Attention { head } => attention::attention(&mut runner, &mut cases, head),
            Self::Products => products::products(&mut runner, &mut cases),
            Self::Recording => products::recording(&mut runner, &mut cases),
        }?;
        Ok(cases)
    }
}

fn compare_one(kernel: Kernel, runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    match kernel {
        Kernel::Embed => rows::embed(runner, cases),
        Kernel::NormRows => norms::norm_rows(runner, cases),
        Kernel::NormHeads => norms::norm_heads(runner, cases),
        Kernel::RopeStore => rope::rope_store(runner, cases),
        Kernel::Gate => elementwise::gate(runner, cases),
        Kernel::Activate => elementwise::activate(runner, cases),
        Kernel::AddBias => rows::add_bias(runner, cases),
        Kernel::RoundRows => rows::round_rows(runner, cases),
        Kernel::KeepRows => rows::keep_rows(runner, cases),
        Kernel::LowRankDown => low_rank::down(runner, cases),
        Kernel::LowRankUp => low_rank::up(runner, cases),
        Kernel::ReadLogits => logits::read_logits(runner, cases),
        Kernel::TopLogits => top_logits::top_logits(runner, cases),
        Kernel::FillNoise => noise::fill_noise(runner, cases),
        Kernel::PackedProduct8 => packed::product_8(runner, cases),
        Kernel::PackedProduct4 => packed::product_4(runner, cases),
        Kernel::PackedExpand8 => packed::expand_8(runner, cases),
        Kernel::PackedExpand4 => packed::expand_4(runner, cases),
        Kernel::AttentionWhole { head }
        | Kernel::AttentionSplit { head }
        | Kernel::AttentionFold { head } => attention::attention(runner, cases, head),
    }
}

/// The subject of the test's finding.
impl fmt::Display for KernelTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(kernel) => write!(f, "kernel {}", kernel.name()),
            Self::Attention { head } => write!(f, "attention with heads of {head}"),
            Self::Products => f.write_str("products"),
            Self::Recording => f.write_str("recorded launches"),
        }
    }
}

/// What to do when a test fails.
const FIX: &str =
    "do not serve models from this card; look at `dmesg` for Xid messages, and report the line above";

/// All tests, on one card.
pub(super) fn of_kernels(card: &dyn Card) -> Vec<DeviceFinding> {
    KernelTest::all().into_iter().map(|test| test.run(card)).collect()
}
