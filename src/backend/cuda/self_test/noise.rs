//! A test of made-up weights: they are the host's to the bit.

use super::{
    cases::Cases,
    runner::{Runner, UNTOUCHED_BF16},
};
use crate::{
    backend::cuda::{
        arguments::FillNoiseArgs,
        driver::{Consequence, DriverError},
        kernels::Kernel,
        launch_sizes::values_of,
    },
    model::spec::{Noise, StoredBytes as _, TensorFormat},
};

/// Values of the matrices: single ones, and what one block of threads does not cover.
const COUNTS: [usize; 6] = [1, 3, 64, 1024, 1027, 5000];

/// Values that are left out, so that a launch does not begin with a matrix's first value.
const LEFT_OUT: usize = 8;

pub(super) fn fill_noise(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    for count in COUNTS {
        cases.begin(format!("{count} values"));
        let made_up = Noise::new("a self-test", TensorFormat::Bf16, 1, LEFT_OUT + count);
        let mut bytes = vec![0; (LEFT_OUT + count) * size_of::<u16>()];
        let noise = made_up.ok_or_else(|| host_failed("there is no such noise".to_owned()))?;
        let filled = noise.read_at(0, &mut bytes);
        filled.map_err(|error| host_failed(error.to_string()))?;
        let all: Vec<u16> = bytes
            .chunks_exact(2)
            .map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
            .collect();
        // Values behind the last, which nobody may write to.
        let expected = [&all[LEFT_OUT..], &[UNTOUCHED_BF16; 8]].concat();
        let out = runner.holding(&vec![UNTOUCHED_BF16; expected.len()])?;
        let argument = FillNoiseArgs {
            out: out.address(),
            counter: noise.counter(LEFT_OUT),
            count: count as u32,
            scale: noise.scale(),
        };
        runner.launch(Kernel::FillNoise, values_of(count), &argument)?;
        cases.exact("values", count, &runner.read(&out, expected.len())?, &expected);
    }
    Ok(())
}

fn host_failed(reason: String) -> DriverError {
    DriverError {
        call: "making noise on the host",
        reason,
        consequence: Consequence::ThisCall,
    }
}
