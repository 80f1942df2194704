package transport

import (
	"syscall"
	"unsafe"
)

// The raw system calls do not tell Go's scheduler that they may block: they cannot, the sockets are non-blocking.

func sysRead(fd int, p []byte) (int, error) { return sysCall(syscall.SYS_READ, fd, p) }

func sysWrite(fd int, p []byte) (int, error) { return sysCall(syscall.SYS_WRITE, fd, p) }

func sysCall(trap uintptr, fd int, p []byte) (int, error) {
	n, _, e := syscall.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))) //nolint:gosec // as package syscall does
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}
