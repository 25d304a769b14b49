//! Sockets in a message between processes.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::listeners::{Role, Sockets};

/// Sockets in one message, with room for roles to come.
const MOST: usize = 16;

/// The sockets, and a letter for the role of each.
pub(super) async fn send(stream: &UnixStream, sockets: &Sockets) -> io::Result<()> {
    let letters: Vec<u8> = sockets.iter().map(|(role, _)| letter(*role)).collect();
    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::Error::other("there are too many sockets"));
        }
        sendmsg(stream, &[IoSlice::new(&letters)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    };
    stream.async_io(Interest::WRITABLE, send).await
}

/// What [`send`] sent.
pub(super) async fn receive(stream: &UnixStream) -> io::Result<Sockets> {
    let receive = || {
        let mut letters = [0; MOST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let iov = &mut [IoSliceMut::new(&mut letters)];
        let got = recvmsg(stream, iov, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut sockets = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                sockets.extend(received);
            }
        }
        let roles: Vec<Role> = letters[..got.bytes].iter().filter_map(|letter| role(*letter)).collect();
        let whole = !got.flags.contains(ReturnFlags::CTRUNC) && roles.len() == got.bytes;
        if !whole || roles.is_empty() || roles.len() != sockets.len() {
            return Err(io::Error::other("the process at the socket sent something else than its sockets"));
        }
        Ok(roles.into_iter().zip(sockets).collect())
    };
    stream.async_io(Interest::READABLE, receive).await
}

fn letter(role: Role) -> u8 {
    match role {
        Role::Https => b'h',
        Role::Admin => b'a',
        Role::Redirect => b'r',
    }
}

fn role(of: u8) -> Option<Role> {
    Role::ALL.into_iter().find(|role| letter(*role) == of)
}
