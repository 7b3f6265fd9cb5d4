//! Reading from pipes for a bounded time, and without a thread that could wait for ever: who has
//! the other end may have given it to a child of its own.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Bytes taken at once.
const PART_LEN: usize = 16 * 1024;

/// What comes out of a pipe, up to a length.
pub(super) struct Reading<F> {
    /// `None` once it has ended, or as much came as is wanted.
    pipe: Option<F>,
    bytes: Vec<u8>,
    len_max: usize,
}

impl<F: AsFd> Reading<F> {
    /// Takes a pipe over.
    pub(super) fn new(pipe: Option<F>, len_max: usize) -> Self {
        Self {
            pipe,
            bytes: Vec::new(),
            len_max,
        }
    }

    /// Returns what came.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes what there is; waits where there is nothing.
    fn take(&mut self) {
        let Some(pipe) = &self.pipe else {
            return;
        };
        let mut part = [0; PART_LEN];
        let room = self.len_max.saturating_sub(self.bytes.len()).min(PART_LEN);
        match rustix::io::read(pipe, &mut part[..room]) {
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => self.pipe = None,
            Ok(len) => self.bytes.extend_from_slice(&part[..len]),
        }
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= self.len_max
    }

    /// Reads until the pipe ends, and another one beside it. Returns whether it ended in time.
    pub(super) fn read_to_end_beside<G: AsFd>(
        &mut self,
        beside: &mut Reading<G>,
        time: Duration,
    ) -> bool {
        let begun = Instant::now();
        while let Some(pipe) = &self.pipe {
            let mut fds = vec![pipe.as_fd()];
            fds.extend(beside.pipe.as_ref().map(AsFd::as_fd));
            let left = time.saturating_sub(begun.elapsed());
            let Some(ready) = wait(&fds, Some(left)) else {
                return false;
            };
            if ready.first() == Some(&true) {
                self.take_up_to_bound();
            }
            if ready.get(1) == Some(&true) {
                beside.take_up_to_bound();
            }
        }
        true
    }

    /// Takes what there is. Who writes more than is wanted finds the pipe closed.
    fn take_up_to_bound(&mut self) {
        self.take();
        if self.is_full() {
            self.pipe = None;
        }
    }

    /// Reads one line, and returns it with its end. `None` where it does not come in time; what
    /// came of it where the pipe ends.
    pub(super) fn line(&mut self, time: Duration) -> Option<String> {
        let begun = Instant::now();
        while let Some(pipe) = self.wanted() {
            wait(&[pipe.as_fd()], Some(time.saturating_sub(begun.elapsed())))?;
            self.take();
        }
        self.first_line()
    }

    /// Does the same for as long as it takes. `None` where the pipe ends, or `end` does before.
    pub(super) fn line_unless(&mut self, end: BorrowedFd<'_>) -> Option<String> {
        while let Some(pipe) = self.wanted() {
            let ready = wait(&[pipe.as_fd(), end], None)?;
            if ready.get(1) == Some(&true) {
                return None;
            }
            self.take();
        }
        self.first_line().filter(|line| !line.is_empty())
    }

    /// Returns the pipe, unless a line has come, or as much as one may be long.
    fn wanted(&self) -> Option<&F> {
        let is_enough = self.is_full() || self.bytes.contains(&b'\n');
        self.pipe.as_ref().filter(|_| !is_enough)
    }

    fn first_line(&mut self) -> Option<String> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n');
        let end = end.map_or(self.bytes.len(), |end| end + 1);
        String::from_utf8(self.bytes.drain(..end).collect()).ok()
    }
}

/// Waits until one of several can be read from, and returns which; `None` where the time is up
/// before.
fn wait(fds: &[BorrowedFd<'_>], time: Option<Duration>) -> Option<Vec<bool>> {
    let begun = Instant::now();
    loop {
        let polled = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN));
        let mut polled: Vec<PollFd<'_>> = polled.collect();
        let left = time.map(|time| time.saturating_sub(begun.elapsed()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut polled, left.as_ref()) {
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return None,
            Ok(_) => {
                let ready = polled.iter().map(|polled| !polled.revents().is_empty());
                return Some(ready.collect());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Write, pipe};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(50);

    fn nothing() -> Reading<PipeReader> {
        Reading::new(None, 0)
    }

    #[test]
    fn lines_come_one_by_one_and_what_does_not_come_is_not_waited_for() {
        let (reader, mut writer) = pipe().expect("there are pipes");
        let mut reading = Reading::new(Some(reader), 4096);
        writer.write_all(b"one\ntwo\nthr").expect("it is open");
        assert_eq!(reading.line(LONG).as_deref(), Some("one\n"));
        assert_eq!(reading.line(LONG).as_deref(), Some("two\n"));
        assert_eq!(reading.line(SHORT), None);
        drop(writer);
        assert_eq!(reading.line(LONG).as_deref(), Some("thr"));
    }

    #[test]
    fn an_open_pipe_ends_with_the_time_and_a_long_one_with_its_bound() {
        let (reader, mut writer) = pipe().expect("there are pipes");
        let mut reading = Reading::new(Some(reader), 6);
        writer.write_all(b"abc").expect("it is open");
        assert!(!reading.read_to_end_beside(&mut nothing(), SHORT));
        writer.write_all(b"defghi").expect("it is open");
        assert!(reading.read_to_end_beside(&mut nothing(), LONG));
        assert_eq!(reading.bytes(), b"abcdef");
    }

    #[test]
    fn who_fills_both_pipes_is_read_from_both() {
        let script = "i=0; while [ $i -lt 20000 ]; do echo 12345678; echo 1234567 >&2; \
                      i=$((i+1)); done";
        let mut command = std::process::Command::new("sh");
        command
            .arg("-c")
            .arg(script)
            .stdin(std::process::Stdio::null());
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut child = command.spawn().expect("sh runs");
        let mut out = Reading::new(child.stdout.take(), usize::MAX);
        let mut err = Reading::new(child.stderr.take(), usize::MAX);
        assert!(
            out.read_to_end_beside(&mut err, LONG) && err.read_to_end_beside(&mut nothing(), LONG)
        );
        assert_eq!((out.bytes().len(), err.bytes().len()), (180_000, 160_000));
        assert!(child.wait().expect("it ends").success());
    }
}
