//! The matchmaker's own binary.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    asobi_service_kit::service::binary("matchmaker", asobi_matchmaker::run)
}
