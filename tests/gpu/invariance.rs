//! What is measured of products decides what a model promises.

use std::sync::{Arc, Mutex};

use babelward::backend::{
    Backend as _, Determinism,
    cuda::{
        CudaBackend,
        driver::{DriverError, ProductChoice, ProductOperands, ProductPlan, ProductShape, Queue},
    },
};

use crate::{
    card::EmulatedCard,
    common::golden,
    models::{ENOUGH, options},
    queue::Timing,
    watched::{WatchedCard, Watcher},
};

/// For which choice of algorithms products of many rows have other bits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    Never,
    Fastest,
    Always,
}

/// Changes a bit of products of many rows.
struct VariantProducts {
    variant: Variant,
    /// What each plan is for.
    choices: Mutex<Vec<(ProductShape, ProductChoice)>>,
}

impl Watcher for VariantProducts {
    fn planned(&self, shape: ProductShape, choice: ProductChoice) {
        self.choices.lock().unwrap().push((shape, choice));
    }

    fn multiplied(
        &self,
        queue: &dyn Queue,
        plan: ProductPlan,
        operands: ProductOperands,
    ) -> Result<(), DriverError> {
        let (shape, choice) = self.choices.lock().unwrap()[plan.0];
        let varies = match self.variant {
            Variant::Never => false,
            Variant::Fastest => choice == ProductChoice::Fastest,
            Variant::Always => true,
        };
        if varies && operands.rows > 64 && !operands.add {
            // The last output of the sixteenth row has another last bit.
            queue.wait()?;
            let at = operands.out.offset(4 * (16 * shape.outputs - 1));
            // SAFETY: addresses of the emulated card are the host's, and it is idle.
            unsafe { *(at.0 as *mut u32) ^= 1 };
        }
        Ok(())
    }
}

#[test]
fn a_model_promises_what_was_measured_of_its_products() {
    for (variant, expected) in [
        (Variant::Never, Determinism::BatchInvariant),
        // One algorithm for all numbers of rows helps.
        (Variant::Fastest, Determinism::BatchInvariant),
        (Variant::Always, Determinism::BestEffort),
    ] {
        let card = WatchedCard {
            card: EmulatedCard::new(Timing::Early, ENOUGH),
            watcher: Arc::new(VariantProducts {
                variant,
                choices: Mutex::default(),
            }),
        };
        let backend = CudaBackend::new(0, Arc::new(card)).unwrap();
        let loaded = backend
            .load(&golden("models").join("qwen2"), &[], &options())
            .unwrap();
        assert_eq!(loaded.determinism, expected);
    }
}
