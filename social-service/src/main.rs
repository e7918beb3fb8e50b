//! The social service's own binary.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    asobi_service_kit::service::binary("social", asobi_social_service::run)
}
