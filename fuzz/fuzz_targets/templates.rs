#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vpnpanel_fuzz_targets::run("templates", data);
});
