//! The CPU's network, with every instruction set: what it shares with the plain network of other devices, and what
//! options and threads change of it, and what not.
