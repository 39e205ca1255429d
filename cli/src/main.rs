//! The binary `corelane`; everything it does is in the library beside it.

use std::ffi::c_long;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long memory that was given back stays with the process, in tenths of its milliseconds: 30 s. What a flush gives back the next
/// writes take; given to the system at once, as is the allocator's way, it comes back page by page, and each page is cleared first: a
/// tenth of the processor time of a put.
const PURGE_DELAY: c_long = 3_000;
/// The option's number in the allocator's header.
const PURGE_DELAY_OPTION: libmimalloc_sys::mi_option_t = 15;

fn main() -> ExitCode {
    #[expect(unsafe_code, reason = "a call of C")]
    // SAFETY: the option is one of the allocator's, and any number is a value for it.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY_OPTION, PURGE_DELAY);
    }
    corelane_cli::main()
}
