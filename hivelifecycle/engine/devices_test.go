package engine

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	nvidiaOut = "0, GPU-8f2c, NVIDIA GeForce RTX 4090, 24564, 23012, 3, 41\n1, GPU-77aa, NVIDIA RTX A2000 12GB, 12282, 11900, [N/A], 55\n2, GPU-gb10, NVIDIA GB10, [N/A], [N/A], 0, 38\n"
	rocmOut   = `WARNING: AMD GPU device(s) is/are in a low-power state. Check power control/runtime_status
{"card0": {"GPU use (%)": "7", "Temperature (Sensor edge) (C)": "36.0", "VRAM Total Memory (B)": "25753026560", "VRAM Total Used Memory (B)": "1753026560", "Card Series": "Navi 31 [Radeon RX 7900 XTX]", "Unique ID": "0xabc"}, "card1": {"GPU use (%)": "0", "VRAM Total Memory (B)": "17163091968", "VRAM Total Used Memory (B)": "0", "Card Series": "N/A", "Card Model": "0x744c"}, "system": {"Driver version": "6.7.0"}}`
	appleOut = `{"SPDisplaysDataType":[{"_name":"Apple M2 Max","spdisplays_mtlgpufamilysupport":"spdisplays_metal3","spdisplays_vendor":"sppci_vendor_Apple","sppci_cores":"38","sppci_model":"Apple M2 Max"},{"sppci_model":"Intel UHD","spdisplays_vendor":"Intel","spdisplays_mtlgpufamilysupport":"x"}]}`
)

func TestParsers(t *testing.T) {
	got, err := ParseNvidiaSMI([]byte(nvidiaOut))
	want := []Device{
		{ID: "cuda:0", UUID: "GPU-8f2c", Name: "NVIDIA GeForce RTX 4090", Backend: "cuda", MemoryTotal: 24564 << 20, MemoryFree: 23012 << 20, Utilization: 0.03, Temperature: 41},
		{ID: "cuda:1", Index: 1, UUID: "GPU-77aa", Name: "NVIDIA RTX A2000 12GB", Backend: "cuda", MemoryTotal: 12282 << 20, MemoryFree: 11900 << 20, Utilization: -1, Temperature: 55},
		{ID: "cuda:2", Index: 2, UUID: "GPU-gb10", Name: "NVIDIA GB10", Backend: "cuda", Unified: true, Temperature: 38},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	got, err = ParseRocmSMI([]byte(rocmOut))
	want = []Device{
		{ID: "rocm:0", Name: "Navi 31 [Radeon RX 7900 XTX]", UUID: "0xabc", Backend: "rocm", MemoryTotal: 25753026560, MemoryFree: 24000000000, Utilization: 0.07, Temperature: 36},
		{ID: "rocm:1", Index: 1, Name: "0x744c", Backend: "rocm", MemoryTotal: 17163091968, MemoryFree: 17163091968},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	got, err = ParseSystemProfiler([]byte(appleOut), Device{MemoryTotal: 32 << 30, MemoryFree: 30 << 30})
	want = []Device{{ID: "metal:0", Name: "Apple M2 Max", Backend: "metal", Unified: true, MemoryTotal: 24 << 30, MemoryFree: 24 << 30, Utilization: -1}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if n := ParseVMStat([]byte("Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:                    100.\nPages active:    999.\nPages inactive:  50.\nPages purgeable: 6.\n")); n != 156*16384 {
		t.Error(n)
	}
	total, free := parseMeminfo([]byte("MemTotal:  16000 kB\nMemFree: 1 kB\nMemAvailable:   8000 kB\n"))
	if total != 16000<<10 || free != 8000<<10 {
		t.Error(total, free)
	}
}

func TestDevicesTogether(t *testing.T) {
	got := Devices(t.Context(), DeviceOptions{Run: func(_ context.Context, name string, args ...string) ([]byte, error) {
		switch name {
		case "nvidia-smi":
			return []byte(nvidiaOut), nil
		case "rocm-smi":
			return []byte(rocmOut), nil
		}
		return nil, errors.New("not here")
	}})
	var ids []string
	for _, d := range got {
		ids = append(ids, d.ID)
	}
	if strings.Join(ids, " ") != "cpu cuda:0 cuda:1 cuda:2 rocm:0 rocm:1" {
		t.Error(ids)
	}
	// The cards' own memory is unknown for a GPU that shares the machine's: it is not counted a second time.
	if got[3].MemoryTotal != 0 || !got[3].Unified {
		t.Errorf("%+v", got[3])
	}
	bare := Devices(t.Context(), DeviceOptions{})
	if len(bare) == 0 || bare[0].MemoryTotal < 1<<20 || bare[0].MemoryFree <= 0 || bare[0].MemoryFree > bare[0].MemoryTotal {
		t.Errorf("%+v", bare)
	}
	if total, free, err := DiskSpace(os.TempDir()); err != nil || total <= 0 || free < 0 {
		t.Error(total, free, err)
	}
}

func FuzzParseNvidiaSMI(f *testing.F) {
	f.Add([]byte(nvidiaOut))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _ := ParseNvidiaSMI(b)
		for _, d := range got {
			if d.MemoryTotal < 0 || d.MemoryFree < 0 || d.Index < 0 {
				t.Errorf("%+v", d)
			}
		}
	})
}

func FuzzParseRocmSMI(f *testing.F) {
	f.Add([]byte(rocmOut))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _ := ParseRocmSMI(b)
		for _, d := range got {
			if d.MemoryTotal < 0 || d.MemoryFree < 0 {
				t.Errorf("%+v", d)
			}
		}
	})
}

func FuzzParseSystemProfiler(f *testing.F) {
	f.Add([]byte(appleOut))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = ParseSystemProfiler(b, Device{}); _ = ParseVMStat(b) })
}
