// Checks a log with nothing of Sealwire's: C2SP tlog-tiles and signed-note as filippo.io/torchwood and
// golang.org/x/mod/sumdb know them, and crypto/ecdsa. Usage: tlog DIRECTORY PUBLIC-KEY.pem EARLIER-CHECKPOINT
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// signer verifies signature lines of type 0x02.
type signer struct {
	name string
	spki []byte
	key  *ecdsa.PublicKey
}

func (s *signer) Name() string { return s.name }

func (s *signer) KeyHash() uint32 {
	hash := sha256.Sum256(s.spki)
	return binary.BigEndian.Uint32(hash[:4])
}

func (s *signer) Verify(text, signature []byte) bool {
	hash := sha256.Sum256(text)
	return ecdsa.VerifyASN1(s.key, hash[:], signature)
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(directory, key, earlier string) error {
	ctx := context.Background()
	newest, err := open(directory+"/checkpoint", key)
	if err != nil {
		return fmt.Errorf("newest checkpoint: %w", err)
	}
	before, err := open(earlier, key)
	if err != nil {
		return fmt.Errorf("earlier checkpoint: %w", err)
	}

	// Over HTTP, as the specification has it, from the directory as it is.
	server := httptest.NewServer(http.FileServer(http.Dir(directory)))
	defer server.Close()
	tiles, err := torchwood.NewTileFetcher(server.URL)
	if err != nil {
		return err
	}
	client, err := torchwood.NewClient(tiles)
	if err != nil {
		return err
	}

	seen := int64(0)
	// An iteration may stop before a partial tile; the next one reads it.
	for seen < newest.N {
		from := seen
		for index, entry := range client.Entries(ctx, newest.Tree, seen) {
			if index != seen || !json.Valid(entry) {
				return fmt.Errorf("entry %d: not what comes after %d, or not JSON", index, seen)
			}
			seen++
		}
		if err := client.Err(); err != nil {
			return fmt.Errorf("entries: %w", err)
		}
		if seen == from {
			return fmt.Errorf("entries end at %d of %d", seen, newest.N)
		}
	}
	for index := int64(0); index < newest.N; index += 37 {
		if _, _, err := client.Entry(ctx, newest.Tree, index); err != nil {
			return fmt.Errorf("inclusion of %d: %w", index, err)
		}
	}
	hashes := torchwood.TileHashReaderWithContext(ctx, newest.Tree, tiles)
	proof, err := tlog.ProveTree(newest.N, before.N, hashes)
	if err != nil {
		return fmt.Errorf("consistency: %w", err)
	}
	if err := tlog.CheckTree(proof, newest.N, newest.Hash, before.N, before.Hash); err != nil {
		return fmt.Errorf("consistency: %w", err)
	}
	fmt.Printf("%s: %d entries, signature, inclusion and consistency with %d in order\n",
		newest.Origin, newest.N, before.N)
	return nil
}

func open(path, key string) (torchwood.Checkpoint, error) {
	signed, err := os.ReadFile(path)
	if err != nil {
		return torchwood.Checkpoint{}, err
	}
	text, err := os.ReadFile(key)
	if err != nil {
		return torchwood.Checkpoint{}, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return torchwood.Checkpoint{}, fmt.Errorf("%s is not PEM", key)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return torchwood.Checkpoint{}, err
	}
	public, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return torchwood.Checkpoint{}, fmt.Errorf("%s is no ECDSA key", key)
	}
	var origin string
	if _, err := fmt.Sscanln(string(signed), &origin); err != nil {
		return torchwood.Checkpoint{}, err
	}
	verifiers := note.VerifierList(&signer{origin, block.Bytes, public})
	opened, err := note.Open(signed, verifiers)
	if err != nil {
		return torchwood.Checkpoint{}, err
	}
	return torchwood.ParseCheckpoint(opened.Text)
}
