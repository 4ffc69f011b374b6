"""Networks of no library: audio, graphs, recurrent, unusual inputs, shapes and precisions."""

from __future__ import annotations

import torch
from models.network import CLASSES, SAMPLES, Given, Rows, images, labels, token_loss, tokens
from torch import Tensor, nn
from torch.nn import functional as F

OWN = Rows("own")


def mlp(inputs: int = 12, width: int = 20) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


def convnet(channels: int = 3, width: int = 8) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, CLASSES),
    )


def flat(inputs: int = 12) -> Tensor:
    return torch.rand(SAMPLES, inputs)


OWN.add("mlp", lambda: Given(mlp(), flat(), labels()))
OWN.add("convnet", lambda: Given(convnet(), images(12), labels()))
OWN.add(
    "mlp, no bias",
    lambda: Given(
        nn.Sequential(nn.Linear(12, 30, bias=False), nn.Tanh(), nn.Linear(30, 10, bias=False)), flat(), labels()
    ),
)
OWN.add("logistic regression", lambda: Given(nn.Linear(12, CLASSES), flat(), labels()))
OWN.add(
    "regression, one output",
    lambda: Given(
        nn.Sequential(nn.Linear(12, 30), nn.SiLU(), nn.Linear(30, 1)), flat(), torch.rand(SAMPLES, 1), F.mse_loss
    ),
)
OWN.add(
    "convnet, no batch norm",
    lambda: Given(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 3, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(8 * 16, 10)
        ),
        images(12),
        labels(),
    ),
)
OWN.add(
    "convnet, group norm",
    lambda: Given(
        nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3),
            nn.InstanceNorm2d(8, affine=True),
            nn.ELU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 10),
        ),
        images(12),
        labels(),
    ),
)
OWN.add(
    "convnet, hardswish",
    lambda: Given(
        nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.Hardswish(),
            nn.Conv2d(8, 8, 3),
            nn.PReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 10),
        ),
        images(12),
        labels(),
    ),
)
OWN.add(
    "3-D convolutions",
    lambda: Given(
        nn.Sequential(
            nn.Conv3d(1, 4, 3),
            nn.BatchNorm3d(4),
            nn.ReLU(),
            nn.Conv3d(4, 8, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(8, 10),
        ),
        torch.rand(SAMPLES, 1, 8, 8, 8),
        labels(),
    ),
)
OWN.add(
    "1-D convolutions",
    lambda: Given(
        nn.Sequential(
            nn.Conv1d(4, 8, 3),
            nn.ReLU(),
            nn.Conv1d(8, 8, 3, dilation=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(8, 10),
        ),
        torch.rand(SAMPLES, 4, 20),
        labels(),
    ),
)
OWN.add(
    "autoencoder",
    lambda: Given(
        nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 1, 2, stride=2), nn.Sigmoid()
        ),
        torch.rand(SAMPLES, 1, 8, 8),
        torch.rand(SAMPLES, 1, 8, 8),
        F.binary_cross_entropy,
    ),
)


class UNet(nn.Module):
    """Two levels, a skip by concatenation, a label for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.last = nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.relu(self.first(x))
        coarse = F.relu(self.down(fine))
        output: Tensor = self.last(torch.cat([F.relu(self.up(coarse)), fine], 1))
        return output


OWN.add("U-Net", lambda: Given(UNet(), images(8), torch.randint(0, CLASSES, (SAMPLES, 8, 8))))


class M5(nn.Module):
    """1-D convolutions over raw sound, as Dai et al. 2017."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into, out, size, stride in ((1, 8, 80, 4), (8, 8, 3, 1), (8, 16, 3, 1), (16, 16, 3, 1)):
            layers += [nn.Conv1d(into, out, size, stride), nn.BatchNorm1d(out), nn.ReLU(), nn.MaxPool1d(2)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return F.log_softmax(self.head(F.avg_pool1d(x, x.shape[-1]).permute(0, 2, 1)), dim=2).squeeze(1)


OWN.add("M5, audio", lambda: Given(M5(), torch.randn(SAMPLES, 1, 600), labels(), F.nll_loss))


class TasNet(nn.Module):
    """An encoder, a mask from dilated depthwise convolutions, a decoder, as in Conv-TasNet: two sounds from one."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, channels, 16, stride=8, bias=False)
        self.norm = nn.GroupNorm(1, channels)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(channels, 16, 1),
                nn.PReLU(),
                nn.GroupNorm(1, 16),
                nn.Conv1d(16, 16, 3, padding=2**depth, dilation=2**depth, groups=16),
                nn.PReLU(),
                nn.Conv1d(16, channels, 1),
            )
            for depth in range(2)
        )
        self.mask = nn.Conv1d(channels, 2 * channels, 1)
        self.decoder = nn.ConvTranspose1d(channels, 1, 16, stride=8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        coded = self.encoder(x)
        y = self.norm(coded)
        for block in self.blocks:
            y = y + block(y)
        masks = torch.sigmoid(self.mask(y)).unflatten(1, (2, -1))
        sources = (masks * coded.unsqueeze(1)).flatten(0, 1)
        output: Tensor = self.decoder(sources).unflatten(0, (-1, 2)).squeeze(2)
        return output


OWN.add(
    "Conv-TasNet, audio",
    lambda: Given(TasNet(), torch.randn(SAMPLES, 1, 128), torch.randn(SAMPLES, 2, 128), F.mse_loss),
)


class Speech(nn.Module):
    """Convolutions over spectra, then a letter a frame: trained with CTC."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(8, 16, 3, padding=1)
        self.second = nn.Conv1d(16, CLASSES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.second(F.relu(self.first(x))), dim=1).permute(2, 0, 1)


def ctc(output: Tensor, target: Tensor) -> Tensor:
    frames, samples, _ = output.shape
    return F.ctc_loss(output, target, torch.full((samples,), frames), torch.full((samples,), target.shape[1]))


OWN.add(
    "speech, CTC", lambda: Given(Speech(), torch.randn(SAMPLES, 8, 20), torch.randint(1, CLASSES, (SAMPLES, 5)), ctc)
)
OWN.add("mlp, multi-margin loss", lambda: Given(mlp(), flat(), labels(), F.multi_margin_loss))
OWN.add(
    "mlp, binary targets",
    lambda: Given(mlp(), flat(), torch.randint(0, 2, (SAMPLES, CLASSES)).float(), F.binary_cross_entropy_with_logits),
)


class Normalized(nn.Module):
    """Embeddings of length one, as for contrastive losses; one input row is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 16, bias=False)
        self.second = nn.Linear(16, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return 5 * F.normalize(self.second(F.relu(self.first(x))), dim=-1)


def zero_row() -> Tensor:
    x = flat()
    x[0] = 0
    return x


OWN.add("F.normalize, a zero row", lambda: Given(Normalized(), zero_row(), labels()))


class Recurrent(nn.Module):
    """A recurrent layer over a sequence of vectors, then a head on the last step."""

    def __init__(self, kind: type[nn.RNNBase], **settings: object) -> None:
        super().__init__()
        self.layer = kind(6, 8, batch_first=True, **settings)
        self.head = nn.Linear(16 if settings.get("bidirectional") else 8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.layer(x)[0][:, -1])
        return output


OWN.add("LSTM", lambda: Given(Recurrent(nn.LSTM), torch.rand(SAMPLES, 5, 6), labels()))
OWN.add(
    "LSTM, two layers, both ways",
    lambda: Given(Recurrent(nn.LSTM, num_layers=2, bidirectional=True), torch.rand(SAMPLES, 5, 6), labels()),
)
OWN.add("GRU", lambda: Given(Recurrent(nn.GRU), torch.rand(SAMPLES, 5, 6), labels()))
OWN.add("RNN", lambda: Given(Recurrent(nn.RNN), torch.rand(SAMPLES, 5, 6), labels()))


class WordModel(nn.Module):
    """A language model: embedding, LSTM, a head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.layer = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.layer(self.embed(x))[0])
        return output


OWN.add("LSTM language model, tied head", lambda: Given(WordModel(), tokens(), tokens(), token_loss))


class Cells(nn.Module):
    """An LSTM cell called step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(6, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        assert state is not None
        output: Tensor = self.head(state[0])
        return output


OWN.add("LSTM cell, a loop", lambda: Given(Cells(), torch.rand(SAMPLES, 5, 6), labels()))


class Encoder(nn.Module):
    """torch's own transformer encoder."""

    def __init__(self, *, norm_first: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=norm_first)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.layers(self.embed(x)).mean(1))
        return output


OWN.add("nn.TransformerEncoder", lambda: Given(Encoder(), torch.rand(SAMPLES, 5, 6), labels()))
OWN.add(
    "nn.TransformerEncoder, norm first", lambda: Given(Encoder(norm_first=True), torch.rand(SAMPLES, 5, 6), labels())
)


class Translator(nn.Module):
    """torch's own encoder and decoder over token ids: two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.body = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
        self.head = nn.Linear(16, 50)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        output: Tensor = self.head(self.body(self.embed(source), self.embed(target)))
        return output


OWN.add("nn.Transformer, two inputs", lambda: Given(Translator(), (tokens(), tokens(6)), tokens(6), token_loss))
