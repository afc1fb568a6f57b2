//! Signals that ask a program to end.

use super::exit::EXIT_INTERRUPTED;
use super::say::say;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::Error;
use pimattn_core::fsio;
use std::time::Duration;

/// Time that work has to stop by itself. Work looks at its token several times a second; what takes longer than this waits for
/// something that may never come, such as the other end of a pipe.
const GRACE: Duration = Duration::from_secs(3);

/// Lets the first Ctrl-C, or another signal to end, stop the work and clean up. The second one ends the program at once, as does the
/// first where the work has not stopped in time.
pub fn listen(cancel: &Cancel) {
    let pressed = cancel.clone();
    let handler = ctrlc::set_handler(move || {
        if pressed.is_requested() {
            end();
        }
        pressed.request();
        // Without a thread for it, the second signal is what ends the program.
        let _ = std::thread::Builder::new().spawn(|| {
            std::thread::sleep(GRACE);
            end();
        });
    });
    if let Err(e) = handler {
        say(&format!("warning: Ctrl-C will not clean up: {e}"));
    }
}

fn end() -> ! {
    fsio::abandon();
    say(&format!("error: {}", Error::Interrupted));
    std::process::exit(i32::from(EXIT_INTERRUPTED));
}
