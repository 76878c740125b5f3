//! The terminal while `top` has it: a screen of its own, keys one by one, and everything as it was afterwards.

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    thread,
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// Shows another screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";

/// Shows the cursor, and the screen from before.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Rows and columns of a terminal that does not say how large it is.
const SIZE: (usize, usize) = (24, 80);

/// The terminal, until it is dropped.
pub(super) struct Terminal {
    /// How it was before; `None` where standard input is no terminal, so that there are no keys.
    before: Option<Termios>,
}

impl Terminal {
    /// Takes the terminal. Ctrl-C and Ctrl-Z still do what they do.
    pub(super) fn enter() -> io::Result<Self> {
        let before = io::stdin()
            .is_terminal()
            .then(|| tcgetattr(io::stdin()))
            .transpose()?;
        if let Some(before) = &before {
            let mut keys = before.clone();
            keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            tcsetattr(io::stdin(), OptionalActions::Now, &keys)?;
        }
        let terminal = Self { before };
        write(ENTER)?;
        Ok(terminal)
    }

    /// Keys as they are pressed. The thread that reads them ends with the process.
    pub(super) fn keys(&self) -> mpsc::Receiver<u8> {
        let (sender, keys) = mpsc::channel(16);
        if self.before.is_some() {
            thread::spawn(move || {
                let mut input = io::stdin().lock();
                let mut key = [0];
                while input.read_exact(&mut key).is_ok() && sender.blocking_send(key[0]).is_ok() {}
            });
        }
        keys
    }

    /// Rows and columns.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
            _ => SIZE,
        }
    }

    /// Replaces what is shown by these lines. Each is overwritten in its place, so that nothing flickers.
    pub(super) fn show(&self, lines: &[String]) -> io::Result<()> {
        let lines = lines.join("\x1b[K\r\n");
        write(&format!("\x1b[H{lines}\x1b[K\x1b[J"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // There is nobody to tell when the terminal is gone.
        let _ = write(LEAVE);
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
