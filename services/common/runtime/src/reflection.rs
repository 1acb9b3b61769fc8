//! gRPC reflection (v1 and v1alpha, as older grpcurl asks) from the contract's descriptor bytes,
//! and of grpc.health.v1, which every server has.

use axum::Router;
use tonic_reflection::server::Builder;

/// The descriptor set cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("reflection: {0}")]
pub struct ReflectionError(#[from] tonic_reflection::server::Error);

/// The paths whose access a service decides when it mounts reflection itself.
pub const PATH_PREFIX: &str = "/grpc.reflection.";

/// Adds reflection to `router`. A service that guards it adds it before its own layer; in
/// development [`crate::Grpc::reflection`] adds it open.
///
/// # Errors
/// When `descriptors` does not decode.
pub fn mount(router: Router, descriptors: &'static [u8]) -> Result<Router, ReflectionError> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(router
        .route_service(
            "/grpc.reflection.v1.ServerReflection/{*rest}",
            builder().build_v1()?,
        )
        .route_service(
            "/grpc.reflection.v1alpha.ServerReflection/{*rest}",
            builder().build_v1alpha()?,
        ))
}
