//! Converts precisions between the kernels and the protocol.

use crate::{model::spec::Precision, proto};

impl From<Precision> for proto::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Int8 => Self::Int8,
            Precision::Bf16 => Self::Bf16,
            Precision::F32 => Self::F32,
            Precision::Mixed => Self::Mixed,
        }
    }
}

impl From<proto::Precision> for Option<Precision> {
    fn from(precision: proto::Precision) -> Self {
        match precision {
            proto::Precision::Unspecified => None,
            proto::Precision::Int8 => Some(Precision::Int8),
            proto::Precision::Bf16 => Some(Precision::Bf16),
            proto::Precision::F32 => Some(Precision::F32),
            proto::Precision::Mixed => Some(Precision::Mixed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_precision_has_a_name_in_the_protocol_that_is_its_own_in_capitals() {
        for precision in Precision::ALL {
            let sent = proto::Precision::from(precision);
            assert_eq!(Option::from(sent), Some(precision));
            let name = format!("PRECISION_{}", precision.name().to_uppercase());
            assert_eq!(sent.as_str_name(), name);
        }
    }
}
