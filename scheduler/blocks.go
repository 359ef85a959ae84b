package scheduler

import (
	"encoding/binary"
	"math/bits"
)

// BlockBytes is the length of the pieces that Blocks hashes, about 64 tokens of English.
const BlockBytes = 256

// MaxBlocks bounds what Blocks returns: 4,096 blocks are the first MiB of a prompt.
const MaxBlocks = 4096

// Blocks gives one chained hash per whole block of BlockBytes of prompt: hash i stands for everything
// up to and including block i, so two prompts share their first n blocks exactly when hashes n-1 are
// equal. It works on the raw JSON bytes of "messages" or "prompt" as well as on text: the next turn of a
// conversation begins with the bytes of the last one except for its closing bracket, which the rule
// "whole blocks only, and never the last 8 bytes" leaves out.
func Blocks(model string, prompt []byte) []uint64 {
	if len(prompt) < BlockBytes+8 {
		return nil
	}
	return AppendBlocks(make([]uint64, 0, min((len(prompt)-8)/BlockBytes, MaxBlocks)), model, prompt)
}

// AppendBlocks is Blocks into a buffer of the caller's.
func AppendBlocks(dst []uint64, model string, prompt []byte) []uint64 {
	h := uint64(0x9e3779b97f4a7c15)
	for i := 0; i < len(model); i++ {
		h = mix(h^uint64(model[i]), 0xff51afd7ed558ccd)
	}
	start := len(dst)
	for end := len(prompt) - 8; end >= BlockBytes && len(dst)-start < MaxBlocks; end -= BlockBytes {
		h = hashBlock(h, prompt[:BlockBytes])
		prompt = prompt[BlockBytes:]
		dst = append(dst, h)
	}
	return dst
}

func hashBlock(h uint64, b []byte) uint64 {
	for len(b) >= 16 {
		h = mix(binary.LittleEndian.Uint64(b)^h, binary.LittleEndian.Uint64(b[8:])^0xa0761d6478bd642f)
		b = b[16:]
	}
	return mix(h^0xe7037ed1a0b428db, 0x8ebc6af09c88c6e3)
}

func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo ^ bits.RotateLeft64(a, 29)
}
