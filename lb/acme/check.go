package acme

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Check looks at the files and folders that o names, and says why New could not use them: caFile, and whether the storage's folder can be made
// or written to by this process. Nothing is made or changed. Each error begins with the key of the configuration, and a colon.
func Check(o Options) (wrong []error) {
	if err := checkStore(o.storage()); err != nil {
		wrong = append(wrong, fmt.Errorf("%s.storageDir: %w", o.Path, err))
	}
	if _, err := (&issuer{caFile: o.Acme.GetCaFile()}).roots(); err != nil {
		wrong = append(wrong, fmt.Errorf("%s.caFile: %w", o.Path, err))
	}
	return wrong
}

// storage is the storage's folder.
func (o *Options) storage() string {
	if dir := o.Acme.GetStorageDir(); dir != "" {
		return dir
	}
	return filepath.Join(o.StateDir, "acme")
}

// checkStore foretells openStore and the first lock, in their words.
func checkStore(dir string) error {
	locks := filepath.Join(dir, "locks")
	there, missing, err := nearest(locks)
	if err != nil {
		return err
	}
	if there == locks || there == filepath.Clean(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		own, ok := info.Sys().(*syscall.Stat_t)
		if me := os.Geteuid(); ok && me != 0 && int(own.Uid) != me { // only they may chmod it
			return exposed(&fs.PathError{Op: "chmod", Path: dir, Err: syscall.EPERM})
		}
	}
	if err := unix.Faccessat(unix.AT_FDCWD, there, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		if missing == "" {
			return &fs.PathError{Op: "open", Path: there, Err: err}
		}
		return &fs.PathError{Op: "mkdir", Path: missing, Err: err}
	}
	return nil
}

// nearest is the folder at path, or the nearest one above it that is there, and the first that would have to be made in it; "" for none.
func nearest(path string) (there, missing string, err error) {
	for path = filepath.Clean(path); ; path = filepath.Dir(path) {
		info, err := os.Stat(path)
		switch {
		case err == nil && info.IsDir():
			return path, missing, nil
		case err == nil:
			return "", "", &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
		case errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrPermission): // one above is a file, or shut
		case !errors.Is(err, fs.ErrNotExist):
			return "", "", err
		default:
			if _, err := os.Lstat(path); err == nil { // a symbolic link to nowhere
				return "", "", &fs.PathError{Op: "mkdir", Path: path, Err: syscall.EEXIST}
			}
		}
		if filepath.Dir(path) == path { // the working directory is gone
			return "", "", err
		}
		missing = path
	}
}
