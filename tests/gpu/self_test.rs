//! The self-tests that `doctor --device cuda:N` runs on a card: they pass on an emulated card, and find what is planted there.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use babelward::backend::{
    Backend as _, DeviceFinding, FindingStatus,
    cuda::{
        CudaBackend,
        arguments::layouts,
        driver::{Consequence, DeviceAddress, DriverError, ProductOperands, ProductPlan, Queue},
        kernels::{Kernel, KernelFile},
        self_test::{HEADS, KernelTest},
    },
};

use crate::{
    card::EmulatedCard,
    models::ENOUGH,
    queue::Timing,
    watched::{WatchedCard, Watcher},
};

fn failed(finding: &DeviceFinding) -> bool {
    matches!(finding.status, FindingStatus::Unusable { .. })
}

#[test]
fn every_kernel_passes_and_leaves_no_memory_behind() {
    let card = EmulatedCard::new(Timing::Late, ENOUGH);
    for test in KernelTest::all() {
        let finding = test.run(&card);
        assert_eq!(finding.status, FindingStatus::Ok, "{finding:?}");
        assert!(finding.found.contains(" cases, "), "{finding:?}");
    }
    assert_eq!(card.state.allocations(), (0, 0));
}

/// The names of the kernels that the sources declare.
fn declared() -> BTreeSet<String> {
    let files = [
        KernelFile::Rows,
        KernelFile::LowRank,
        KernelFile::Logits,
        KernelFile::Packed,
        KernelFile::Noise,
        KernelFile::Attention { head: 0 },
    ];
    let mut names = BTreeSet::new();
    for file in files {
        let declarations = file.source().lines().filter(|line| line.starts_with("KERNEL "));
        for line in declarations {
            let (_, name) = line.split_once(") ").unwrap();
            let name = name.split_once('(').unwrap().0;
            match name {
                "NAMED" => {
                    let base = line.split_once("NAMED(").unwrap().1.split_once(')').unwrap().0;
                    names.extend(HEADS.map(|head| format!("{base}_{head}")));
                }
                _ => assert!(names.insert(name.to_owned())),
            }
        }
    }
    // Larger heads have no whole attention.
    assert!(names.remove("attention_whole_256"));
    names
}

#[test]
fn no_kernel_is_left_out() {
    let tests = KernelTest::all();
    let tested = tests.iter().flat_map(|test| test.kernels());
    let tested: BTreeSet<String> = tested.map(Kernel::name).collect();
    assert_eq!(tested, declared());
}

/// What each kernel writes: the structure that it takes, and fields with addresses.
fn outputs(kernel: Kernel) -> (&'static str, &'static [&'static str]) {
    match kernel {
        Kernel::Embed => ("EmbedArgs", &["hidden"]),
        Kernel::NormRows => ("NormRowsArgs", &["rounded", "sum"]),
        Kernel::NormHeads => ("NormHeadsArgs", &["qkv"]),
        Kernel::RopeStore => ("RopeStoreArgs", &["qkv", "keys", "values"]),
        Kernel::Gate => ("GateArgs", &["gated"]),
        Kernel::Activate => ("ActivateArgs", &["rows"]),
        Kernel::AddBias => ("AddBiasArgs", &["rows"]),
        Kernel::RoundRows => ("RoundRowsArgs", &["rounded"]),
        Kernel::KeepRows => ("KeepRowsArgs", &["rows"]),
        Kernel::AttentionWhole { .. } | Kernel::AttentionFold { .. } => ("AttentionArgs", &["out"]),
        Kernel::AttentionSplit { .. } => ("AttentionArgs", &["partial"]),
        Kernel::LowRankDown => ("LowRankDownArgs", &["inner"]),
        Kernel::LowRankUp => ("LowRankUpArgs", &["out"]),
        Kernel::ReadLogits => ("ReadLogitsArgs", &["logits", "readings", "probe_logits"]),
        Kernel::TopLogits => ("TopLogitsArgs", &["top", "weights"]),
        Kernel::FillNoise => ("FillNoiseArgs", &["out"]),
        Kernel::PackedProduct8 | Kernel::PackedProduct4 => ("PackedProductArgs", &["out"]),
        Kernel::PackedExpand8 | Kernel::PackedExpand4 => ("PackedExpandArgs", &["out"]),
    }
}

/// One wrong bit in the first word that a kernel has written.
struct WrongWord {
    kernel: Kernel,
    /// Where the address of the output is in the kernel's argument.
    offset: usize,
    planted: AtomicUsize,
}

impl WrongWord {
    fn new(kernel: Kernel, field: &str) -> Self {
        let (name, _) = outputs(kernel);
        let layout = layouts().into_iter().find(|layout| layout.name == name).unwrap();
        let field = layout.fields.iter().find(|(known, _)| *known == field).unwrap();
        Self {
            kernel,
            offset: field.1,
            planted: AtomicUsize::new(0),
        }
    }
}

/// Changes a word of a card's memory when all work before is done.
fn spoil(queue: &dyn Queue, address: DeviceAddress) -> Result<(), DriverError> {
    queue.wait()?;
    // SAFETY: the memory of an emulated card is the host's, a launch has just written there, and nothing is under way.
    unsafe { *(address.0 as *mut u32) ^= 1 << 30 };
    Ok(())
}

impl Watcher for WrongWord {
    fn launched(&self, queue: &dyn Queue, kernel: Kernel, argument: &[u8]) -> Result<(), DriverError> {
        if kernel != self.kernel {
            return Ok(());
        }
        let address = u64::from_ne_bytes(argument[self.offset..self.offset + 8].try_into().unwrap());
        if address != 0 {
            self.planted.fetch_add(1, Ordering::SeqCst);
            spoil(queue, DeviceAddress(address))?;
        }
        Ok(())
    }
}

#[test]
fn a_wrong_bit_of_any_output_of_any_kernel_is_found() {
    for test in KernelTest::all() {
        if test == KernelTest::Recording {
            continue;
        }
        for kernel in test.kernels() {
            for field in outputs(kernel).1 {
                let watcher = Arc::new(WrongWord::new(kernel, field));
                let card = WatchedCard {
                    card: EmulatedCard::new(Timing::Early, ENOUGH),
                    watcher: Arc::clone(&watcher),
                };
                let finding = test.run(&card);
                let name = kernel.name();
                assert!(watcher.planted.load(Ordering::SeqCst) > 0, "{name}, {field}");
                assert!(failed(&finding), "{name}, {field}: {finding:?}");
                assert!(finding.found.contains("row "), "{name}, {field}: {finding:?}");
            }
        }
    }
}

/// Products with one wrong bit, and recordings that are not carried out.
struct WrongLibrary;

impl Watcher for WrongLibrary {
    fn multiplied(
        &self,
        queue: &dyn Queue,
        _plan: ProductPlan,
        operands: ProductOperands,
    ) -> Result<(), DriverError> {
        spoil(queue, operands.out)
    }

    fn leaves_recordings_out(&self) -> bool {
        true
    }
}

#[test]
fn wrong_products_and_recordings_that_are_left_out_are_found() {
    let card = WatchedCard {
        card: EmulatedCard::new(Timing::Late, ENOUGH),
        watcher: Arc::new(WrongLibrary),
    };
    for test in [KernelTest::Products, KernelTest::Recording] {
        let finding = test.run(&card);
        assert!(failed(&finding), "{finding:?}");
    }
}

struct Dead;

impl Watcher for Dead {
    fn call(&self) -> Result<(), DriverError> {
        Err(DriverError {
            call: "planted",
            reason: "the card is gone".to_owned(),
            consequence: Consequence::Lasting,
        })
    }
}

#[test]
fn a_card_that_fails_is_a_failure_of_every_test_with_the_drivers_words() {
    let card = WatchedCard {
        card: EmulatedCard::new(Timing::Late, ENOUGH),
        watcher: Arc::new(Dead),
    };
    let findings = CudaBackend::new(0, Arc::new(card)).unwrap().self_test();
    assert!(findings.len() > KernelTest::all().len());
    for finding in findings {
        assert!(failed(&finding), "{finding:?}");
        assert!(finding.found.contains("the card is gone"), "{finding:?}");
    }
}

#[test]
fn a_card_tests_kernels_then_golden_checkpoints_and_made_up_models() {
    let card = EmulatedCard::new(Timing::Late, ENOUGH);
    let findings = CudaBackend::new(0, Arc::new(card)).unwrap().self_test();
    for finding in &findings {
        assert_eq!(finding.status, FindingStatus::Ok, "{finding:?}");
    }
    let subjects: Vec<_> = findings.iter().map(|finding| finding.subject.as_str()).collect();
    let kernels: Vec<_> = KernelTest::all().iter().map(ToString::to_string).collect();
    let (of_kernels, of_models) = subjects.split_at(kernels.len());
    assert_eq!(of_kernels, kernels);
    assert_eq!(
        of_models,
        [
            "golden checkpoints in bf16",
            "a made-up model in bf16",
            "a made-up model in bf16 beside the processor's",
            "a made-up model in int8",
            "a made-up model in int8 beside the processor's",
        ]
    );
}
