package files

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// Each story changes what the path holds; the watcher has to look until it sees that.
func TestHoweverAFileIsReplacedItIsNoticed(t *testing.T) {
	for name, story := range map[string]struct {
		begin, change func(t *testing.T, dir string)
	}{
		"written in place": {
			func(t *testing.T, dir string) { write(t, dir+"/file", "old") },
			func(t *testing.T, dir string) { write(t, dir+"/file", "new") },
		},
		"renamed into place": {
			func(t *testing.T, dir string) { write(t, dir+"/file", "old") },
			func(t *testing.T, dir string) {
				write(t, dir+"/other", "new")
				if err := os.Rename(dir+"/other", dir+"/file"); err != nil {
					t.Fatal(err)
				}
			},
		},
		"a link that is swapped, as certbot does": {
			func(t *testing.T, dir string) {
				write(t, dir+"/archive/1", "old")
				write(t, dir+"/archive/2", "new")
				link(t, "archive/1", dir+"/file")
			},
			func(t *testing.T, dir string) { link(t, "archive/2", dir+"/file") },
		},
		"a link to a folder that is swapped, as Kubernetes does": {
			func(t *testing.T, dir string) {
				write(t, dir+"/..1/file", "old")
				link(t, "..1", dir+"/..data")
				link(t, "..data/file", dir+"/file")
			},
			func(t *testing.T, dir string) {
				write(t, dir+"/..2/file", "new")
				link(t, "..2", dir+"/..data")
			},
		},
		"written where a link leads": {
			func(t *testing.T, dir string) {
				write(t, dir+"/elsewhere/real", "old")
				link(t, "elsewhere/real", dir+"/file")
			},
			func(t *testing.T, dir string) { write(t, dir+"/elsewhere/real", "new") },
		},
		"not there at first": {
			func(*testing.T, string) {},
			func(t *testing.T, dir string) { write(t, dir+"/file", "new") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			story.begin(t, dir)
			looked := make(chan string)
			stop := make(chan struct{})
			w := Watch([]string{dir + "/file"}, time.Hour, slog.New(slog.DiscardHandler), func() {
				text, _ := os.ReadFile(dir + "/file")
				select {
				case looked <- string(text):
				case <-stop:
				}
			})
			defer w.Close()
			defer close(stop)
			await := func(want func(text string) bool) {
				t.Helper()
				late := time.After(10 * time.Second)
				for {
					select {
					case text := <-looked:
						if want(text) {
							return
						}
					case <-late:
						t.Fatal("not noticed")
					}
				}
			}
			await(func(string) bool { return true }) // the look at the start is over: from here on only events help
			story.change(t, dir)
			await(func(text string) bool { return text == "new" })
		})
	}
}

func TestWithoutAnyEventFilesAreLookedAtFromTimeToTime(t *testing.T) {
	looks := make(chan struct{}, 1)
	w := Watch([]string{"/nowhere/at/all"}, 5*time.Millisecond, slog.New(slog.DiscardHandler), func() {
		select {
		case looks <- struct{}{}:
		default:
		}
	})
	for range 3 {
		select {
		case <-looks:
		case <-time.After(10 * time.Second):
			t.Fatal("nobody looks")
		}
	}
	w.Close()
	w.Close()
}

func TestWhoAsksIsServedAtOnceAndHearsThatItWasAsked(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ask, looked, ended := make(chan struct{}, 1), make(chan bool, 16), make(chan error, 1)
	go func() {
		ended <- Follow(ctx, []string{t.TempDir() + "/file"}, Options{Ask: ask}, func(asked bool) { looked <- asked })
	}()
	ask <- struct{}{}
	for late := time.After(10 * time.Second); ; {
		select {
		case asked := <-looked:
			if !asked {
				continue // the look at the start
			}
		case <-late:
			t.Fatal("nobody looks")
		}
		break
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestWhereNothingCouldEverBeToldFollowingFailsAtOnce(t *testing.T) {
	err := Follow(t.Context(), []string{"/nowhere/at/all"}, Options{}, func(bool) { t.Error("looked") })
	if err == nil {
		t.Error("no error")
	}
}
