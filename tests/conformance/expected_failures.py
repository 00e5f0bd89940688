"""The common tests of transformers that cannot pass, one by one, each with the reason."""

ROWS = "expects one id for a word, where ELMo has a row of character ids"
NO_TRAINING = "trains a tokenizer, and ELMo's has nothing to train: it encodes words as characters"
CHARACTER_SYMBOLS = (
    "sets config.vocab_size to change the input table, which has config.word_vocab_size rows in a "
    "model with token input"
)

EXPECTED_FAILURES = {
    "CharacterModelTest::test_load_with_mismatched_shapes": ROWS,
    "TokenInputModelTest::test_load_with_mismatched_shapes": CHARACTER_SYMBOLS,
    "CharacterTokenizerTest::test_batch_encode_dynamic_overflowing": ROWS,
    "CharacterTokenizerTest::test_chat_template_return_assistant_tokens_mask": ROWS,
    "CharacterTokenizerTest::test_encode_basic_padding": ROWS,
    "CharacterTokenizerTest::test_encode_plus_with_padding_0": ROWS,
    "CharacterTokenizerTest::test_encode_plus_with_padding_1": ROWS,
    "CharacterTokenizerTest::test_training_new_tokenizer": NO_TRAINING,
    "CharacterTokenizerTest::test_training_new_tokenizer_with_special_tokens_change": NO_TRAINING,
    "TokenInputTokenizerTest::test_training_new_tokenizer": NO_TRAINING,
    "TokenInputTokenizerTest::test_training_new_tokenizer_with_special_tokens_change": NO_TRAINING,
}
