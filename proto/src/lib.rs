//! Every message that crosses a process boundary: the gRPC services, the client's frames and error codes, what travels
//! in NOTIFY payloads, and what rows hold as JSON. No I/O. Whatever is here is read by the previous and the next release.

pub mod bus;
pub mod effect;
pub mod error;
pub mod frame;
pub mod mode;
pub mod query;
pub mod scope;

/// `asobi.match.v1`
#[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod match_v1 {
    tonic::include_proto!("asobi.r#match.v1");
}
/// `asobi.matchmaker.v1`
#[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod matchmaker_v1 {
    tonic::include_proto!("asobi.matchmaker.v1");
}
/// `asobi.social.v1`
#[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod social_v1 {
    tonic::include_proto!("asobi.social.v1");
}
/// `asobi.ops.v1`
#[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod ops_v1 {
    tonic::include_proto!("asobi.ops.v1");
}

/// The descriptors of all services, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
